package lab

import (
	"os"
	"strconv"
	"time"
)

// Scaled is d, multiplied by what WSLMIRROR_SLOW says: 4 on a machine that takes four
// times as long as usual. Every deadline of the bench, and of what runs on it, is scaled,
// so that one variable is enough for a slow machine. Without the variable, or if it is
// not a number of 1 or more, it is d.
func Scaled(d time.Duration) time.Duration {
	factor, err := strconv.ParseFloat(os.Getenv("WSLMIRROR_SLOW"), 64)
	if err != nil || !(factor >= 1) { // also what is not a number
		return d
	}
	return time.Duration(float64(d) * factor)
}
