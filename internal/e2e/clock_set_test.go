//go:build clock

package e2e

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// The clock jumps by a day and back, in both directions. It is the machine's clock, so this
// test runs only with the build tag.
func TestClockJumps(t *testing.T) {
	for _, by := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		b := labtest.New(t, lab.Options{})
		d := start(t, b.WSL)
		staysCalm(t, b, d, func() {
			looks := watchLooks(t, d.dir)
			excursion(t, by, func() { labtest.Eventually(t, "the daemon looks", func() bool { return looks() > 0 }) })
		})
	}
}

// excursion sets the clock, calls while, and sets the clock back. It uses the clock that
// did not jump to compute the right time.
func excursion(t *testing.T, by time.Duration, while func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	read := func(clock int32) time.Duration {
		var now unix.Timespec
		if err := unix.ClockGettime(clock, &now); err != nil {
			t.Fatal(err)
		}
		return time.Duration(now.Nano())
	}
	set := func(to time.Duration) {
		now := unix.NsecToTimespec(to.Nanoseconds())
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
			t.Error(err)
		}
	}
	ahead := read(unix.CLOCK_REALTIME) - read(unix.CLOCK_MONOTONIC)
	defer func() { set(read(unix.CLOCK_MONOTONIC) + ahead) }()
	set(read(unix.CLOCK_MONOTONIC) + ahead + by)
	while()
}
