package e2e

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// The clock is set, as when a machine resumes. The daemon makes a pass and changes nothing.
// The machine's clock stays as it is: the daemon is only told of a change. The test in
// clock_set_test.go really sets the clock.
func TestClockIsSet(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	var p *tap
	d := launch(t, b.WSL, func(args ...string) *exec.Cmd {
		var cmd *exec.Cmd
		cmd, p = onTap(t, args...)
		return cmd
	})
	served := make(chan error, 1)
	go func() { served <- p.serve(d.proc) }()
	staysCalm(t, b, d, func() { tellClockSet(t, d, p) })
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// tellClockSet makes the daemon's timer expire, and makes the next read fail as it does
// when the clock has been set (timerfd_create(2)).
func tellClockSet(t *testing.T, d *daemon, p *tap) {
	t.Helper()
	timer := timerOf(t, d.proc.Process.Pid)
	defer unix.Close(timer)
	told := make(chan error, 1)
	p.setFault(func(_ int, call string) unix.Errno {
		if call != "read anon_inode" {
			return 0
		}
		p.fault = nil
		// Arm it like netwatch.ClockSet. The daemon is stopped meanwhile.
		never := unix.ItimerSpec{Value: unix.Timespec{Sec: 1 << 33}}
		told <- unix.TimerfdSettime(timer, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil)
		return unix.ECANCELED
	})
	if err := unix.TimerfdSettime(timer, 0, &unix.ItimerSpec{Value: unix.Timespec{Nsec: 1}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := labtest.Receive(t, "the daemon reads its timer", told); err != nil {
		t.Fatal(err)
	}
}

// timerOf returns the only timer of a process.
func timerOf(t *testing.T, pid int) (fd int) {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	links, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if to, _ := os.Readlink(link); to != "anon_inode:[timerfd]" {
			continue
		}
		number, err := strconv.Atoi(filepath.Base(link))
		if err != nil {
			t.Fatal(err)
		}
		if fd, err = unix.PidfdGetfd(pidfd, number, 0); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	t.Fatal("the daemon has no timer")
	return -1
}

// staysCalm calls set twice to set the clock. Each time the daemon must make one pass, or
// two if set also sets the clock back, and leave its table as it was.
func staysCalm(t *testing.T, b *lab.Bench, d *daemon, set func()) {
	t.Helper()
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
	if _, err := b.Windows.Ask("tcp", "127.0.0.1:9000", patience); err != nil {
		t.Fatal(err)
	}
	before := table()
	if !strings.Contains(before, "# handle") || strings.Count(before, "packets 0 ") == strings.Count(before, "packets ") {
		t.Fatalf("has no handles, or has counted nothing:\n%s", before)
	}
	looks := watchLooks(t, d.dir)
	for range 2 {
		set()
		n := 0
		labtest.Eventually(t, "the daemon looks", func() bool { n += looks(); return n > 0 })
		// This requests one more pass. A daemon that keeps making passes by itself has made
		// more by then.
		if err := status.Refresh(d.dir); err != nil {
			t.Fatal(err)
		}
		if n += looks(); n < 2 || n > 3 {
			t.Errorf("looked %d times, once of these because it was asked to", n)
		}
		if after := table(); after != before {
			t.Errorf("the table is not the same:\n%s", difference(before, after))
		}
		s, exit := d.status()
		if s.State != status.Active || exit != exitOK || !s.Since.Equal(began.Since) {
			t.Errorf("exit %d, %+v", exit, s)
		}
		if age := time.Since(s.Updated).Abs(); age > labtest.Patience() {
			t.Errorf("updated %v ago", age)
		}
		looks() // the pass for status
	}
	d.stop(unix.SIGTERM)
	if log := d.log.String(); warns(log) {
		t.Errorf("the log:\n%s", log)
	}
}

// watchLooks counts how often the daemon publishes. The result returns how often since its
// last call.
func watchLooks(t *testing.T, dir string) (looks func() int) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	// inotify merges equal events that are not yet read. With both kinds of event they
	// alternate.
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
