package netwatch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"
)

// The timer is armed so that the kernel reports when the clock is set. This test looks
// at the timer instead: a test must not set the clock, even to its current time.
func TestClockSetIsArmed(t *testing.T) {
	events, err := ClockSet().Open()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	timer := events.(clockEvents).ReadCloser.(*os.File)
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", timer.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	const flags = unix.TFD_TIMER_ABSTIME | unix.TFD_TIMER_CANCEL_ON_SET
	// Octal; then the remaining time, more than a hundred years.
	want := fmt.Sprintf(`clockid: %d\nticks: 0\nsettime flags: 0*%o\nit_value: \(\d{10,}, \d+\)`, unix.CLOCK_REALTIME, flags)
	if !regexp.MustCompile(want).Match(info) {
		t.Errorf("the timer is\n%s\nwant %s", info, want)
	}
}

// fakeTimer is a timer whose reads end as the test tells.
type fakeTimer struct{ reads chan error }

func (f fakeTimer) Read([]byte) (int, error) {
	err, ok := <-f.reads
	if !ok {
		return 0, os.ErrClosed
	}
	return 0, err
}

func (f fakeTimer) Close() error {
	close(f.reads)
	return nil
}

var _ io.ReadCloser = fakeTimer{}

// A read that fails because the clock was set is an event, also repeatedly. Any other
// error ends the subscription.
func TestClockSetWakes(t *testing.T) {
	timer := fakeTimer{make(chan error)}
	events := clockEvents{timer}
	set := &os.PathError{Op: "read", Path: "timerfd", Err: unix.ECANCELED}
	w := NewWatcher(Source{Name: "the clock", Open: func() (Subscription, error) { return events, nil }})
	if err := w.Subscribe(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		timer.reads <- set
		<-w.C()
	}
	w.Close()
	if err := events.Wait(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
