package labtest

import (
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// Patience is how long a test waits for what must happen. It is so long that only what
// never happens is a failure: a busy machine may take hundreds of times as long as an
// idle one.
func Patience() time.Duration { return lab.Scaled(time.Minute) }

// Eventually waits until ok reports true, and fails the test if that never happens. what
// says what is awaited.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	pause := time.Millisecond
	for deadline := time.Now().Add(Patience()); !ok(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			tb.Fatalf("never came to this: %s", what)
		}
		// What takes long need not be seen at once, and looking costs the machine time.
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// Receive waits for a value and returns it. It fails the test if none ever comes.
func Receive[T any](tb testing.TB, what string, from <-chan T) T {
	tb.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(Patience()):
		tb.Fatalf("never came to this: %s", what)
		panic("unreachable")
	}
}
