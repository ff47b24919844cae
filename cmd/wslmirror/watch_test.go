package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// A stage is a daemon that is played, whose state a test changes.
type stage struct {
	mu    sync.Mutex
	dir   string
	state status.Snapshot
	asked []time.Time
	shown bytes.Buffer
}

func newStage(t *testing.T, s status.Snapshot) *stage {
	st := &stage{dir: t.TempDir(), state: s}
	err := status.Serve(t.Context(), st.dir, func(context.Context) {
		st.mu.Lock()
		st.asked = append(st.asked, time.Now())
		st.mu.Unlock()
		st.set(t, func(*status.Snapshot) {})
	})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// set changes the state and publishes it, as a daemon does when something happens.
func (st *stage) set(t *testing.T, change func(*status.Snapshot)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	change(&st.state)
	st.state.Updated = time.Now()
	if err := status.Write(st.dir, st.state); err != nil {
		t.Error(err)
	}
}

func (st *stage) Write(b []byte) (int, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.shown.Write(b)
}

func (st *stage) text() string {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.shown.String()
}

var watched = status.Snapshot{
	State: status.Active, Path: "proxy", Version: "1.2.3", Since: time.Now(),
	Interface: status.Interface{Name: "loopback0", Index: 5, Present: true},
	Table:     status.Table{Family: "ip", Name: "wslmirror", Installed: true},
}

func TestWatch(t *testing.T) {
	labtest.NeedTime(t)
	st := newStage(t, watched)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		code, err := watchStatus(ctx, st.dir, false, st)
		if code != exitOK {
			err = fmt.Errorf("exit %d, %w", code, err)
		}
		done <- err
	}()
	shows := func(want string) {
		t.Helper()
		labtest.Eventually(t, "it shows "+want, func() bool { return strings.HasSuffix(st.text(), "  "+want+"\n") })
	}
	shows("active: rules are installed for packets that arrive on loopback0")
	st.set(t, func(s *status.Snapshot) {
		s.Ports = []status.Port{{Proto: "tcp", Port: 8080, Address: "0.0.0.0", Target: "172.17.0.2:80", Engine: "docker", Path: "proxy"}}
	})
	shows("8080/tcp is published by docker on 0.0.0.0 for 172.17.0.2:80, path proxy")
	st.set(t, func(s *status.Snapshot) { s.Rule.Packets = 1 })
	shows("1 connection from Windows so far")
	st.set(t, func(s *status.Snapshot) { s.State = status.Waiting })
	shows("waiting: there is no loopback0; it exists only in the modes with a shared localhost (mirrored, consomme)")

	// While nothing changes, nothing is written, and the daemon is asked more and more
	// seldom.
	before := st.text()
	labtest.Eventually(t, "it asks seldom", func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		n := len(st.asked)
		return n > 1 && st.asked[n-1].Sub(st.asked[n-2]) > 3*soonest
	})
	if after := st.text(); after != before {
		t.Errorf("writes %q", strings.TrimPrefix(after, before))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for i, at := range st.asked {
		if i > 0 && at.Sub(st.asked[i-1]) < soonest*4/5 {
			t.Errorf("asked again after %v", at.Sub(st.asked[i-1]))
		}
	}
}

func TestWatchJSON(t *testing.T) {
	st := newStage(t, watched)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := watchStatus(ctx, st.dir, true, st)
		done <- err
	}()
	labtest.Eventually(t, "a line", func() bool { return strings.HasSuffix(st.text(), "}\n") })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	labtest.WantValid(t, "status", []byte(st.text()))
	var s status.Snapshot
	if err := json.Unmarshal([]byte(st.text()), &s); err != nil || s.State != status.Active || strings.Count(st.text(), "\n") != 1 {
		t.Errorf("%v: %s", err, st.text())
	}
}

// On a terminal all is drawn over what was there: nothing is erased that is written
// again, and no line more than there are.
func TestWatchOnATerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 6, Col: 70}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")

	st := newStage(t, watched)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := watchStatus(ctx, st.dir, false, tty)
		done <- err
	}()
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			if err != nil {
				return
			}
			st.Write(b[:n])
		}
	}()
	labtest.Eventually(t, "it draws", func() bool { return strings.Contains(st.text(), "\x1b[J") })
	st.set(t, func(s *status.Snapshot) { s.State, s.Table.Installed = status.Standby, false })
	labtest.Eventually(t, "it draws again", func() bool { return strings.Count(st.text(), "\x1b[J") == 2 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	labtest.Eventually(t, "the terminal is as it was", func() bool { return strings.HasSuffix(st.text(), "\x1b[?25h\x1b[?1049l") })
	drawings := strings.Split(st.text(), "\x1b[H")
	if len(drawings) != 3 || strings.Contains(st.text(), "\x1b[2J") {
		t.Fatalf("%q", st.text())
	}
	for i, want := range []string{"\x1b[32m● active\x1b[m: rules are installed for packets that arrive on loopback0\x1b[K\r", "\x1b[33m○ standby\x1b[m: another wslmirror in this VM is active; this one takes over\x1b[K\r"} {
		if got := drawings[i+1]; !strings.HasPrefix(got, want) || strings.Count(got, "\n") != 5 || !strings.Contains(got, "\x1b[K\x1b[J") {
			t.Errorf("drawing %d: %q\nwant %q", i+1, got, want)
		}
	}
}

// Who watches a daemon that is not there sees that, and sees it come.
func TestWatchStopped(t *testing.T) {
	dir := t.TempDir()
	var st stage
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := watchStatus(ctx, dir, false, &st)
		done <- err
	}()
	labtest.Eventually(t, "stopped", func() bool { return strings.HasSuffix(st.text(), "  stopped: wslmirror is not running\n") })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
