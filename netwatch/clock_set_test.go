//go:build clock

package netwatch_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/netwatch"
)

// Setting the clock to its current time causes the event that a resumed system sees. It
// is the machine's clock, so this test runs only with the build tag.
func TestClockSet(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	w := watch(t, b.WSL, netwatch.ClockSet())
	for range 2 { // the timer stays armed
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
			t.Fatal(err)
		}
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
			t.Fatal(err)
		}
		labtest.Receive(t, "woken by the clock", w.C())
	}
}
