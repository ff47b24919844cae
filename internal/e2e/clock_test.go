package e2e

import (
	"encoding/binary"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// The clock jumps by a day, as it does when a machine resumes, and back. The daemon
// looks, finds all as it should be, and leaves it so. For this no test runs at the
// same time: it is the clock of the machine.
func TestClockJumps(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	d := start(t, b.WSL)
	began := d.awaitState(status.Active)
	table := func() string {
		t.Helper()
		out, err := b.WSL.Run("nft", "--handle", "list", "table", "ip", "wslmirror")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:9000"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Windows.Ask("tcp", "127.0.0.1:9000", time.Second); err != nil {
		t.Fatal(err)
	}
	before := table()
	if !strings.Contains(before, "# handle") || strings.Count(before, "packets 0 ") == strings.Count(before, "packets ") {
		t.Fatalf("has no handles, or has counted nothing:\n%s", before)
	}
	looks := watchLooks(t, d.dir)
	for _, by := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		looks()
		excursion(t, by)
		time.Sleep(200 * time.Millisecond) // time for too many looks
		// A jump there and one back, which may be seen as one.
		if n := looks(); n < 1 || n > 2 {
			t.Errorf("by %v: looked %d times", by, n)
		}
		if after := table(); after != before {
			t.Errorf("by %v: the table is not the same:\n%s", by, difference(before, after))
		}
		s, exit := d.status()
		if s.State != status.Active || exit != exitOK || !s.Since.Equal(began.Since) {
			t.Errorf("by %v: exit %d, %+v", by, exit, s)
		}
		if age := time.Since(s.Updated).Abs(); age > time.Minute {
			t.Errorf("by %v: updated %v ago", by, age)
		}
	}
	d.stop(unix.SIGTERM)
	if log := d.log.String(); warns(log) {
		t.Errorf("the log:\n%s", log)
	}
}

// excursion sets the clock for as long as the daemon takes to look, and then back
// by the clock that did not jump.
func excursion(t *testing.T, by time.Duration) {
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
	time.Sleep(30 * time.Millisecond)
}

// watchLooks counts how often the daemon publishes. What it returns says how often
// since it was last called.
func watchLooks(t *testing.T, dir string) (looks func() int) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	// Of equal events that wait, inotify makes one. With both names they alternate.
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_FROM|unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	return func() (n int) {
		buf := make([]byte, 64<<10)
		size, err := unix.Read(fd, buf)
		if err != nil && err != unix.EAGAIN {
			t.Fatal(os.NewSyscallError("read", err))
		}
		const maskAt, lengthAt = 4, 12 // in struct inotify_event; the length is the name's
		for at := 0; at < size; at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+lengthAt:])) {
			if binary.NativeEndian.Uint32(buf[at+maskAt:])&unix.IN_MOVED_TO != 0 {
				n++
			}
		}
		return n
	}
}
