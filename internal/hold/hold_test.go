package hold

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/status"
)

// An engine that binds its ports itself gets time to do so. Other ports are held at once.
func TestPatient(t *testing.T) {
	h := New(Config{}, nil)
	s := status.Snapshot{Ports: []status.Port{
		{Proto: "tcp", Port: 1, Engine: "cni"}, {Proto: "tcp", Port: 2, Engine: "docker"}, {Proto: "tcp", Port: 3, Engine: "podman"},
	}}
	cni, docker, podman := Port{"tcp", 1}, Port{"tcp", 2}, Port{"tcp", 3}
	began := time.Now()
	for _, step := range []struct {
		after time.Duration
		want  []Port
		rest  string
		wait  time.Duration
	}{
		{0, []Port{cni, docker}, "[1/tcp]", engineFirst},
		{engineFirst / 2, []Port{cni, docker, podman}, "[1/tcp]", engineFirst / 2},
		{engineFirst, []Port{cni, docker, podman}, "[1/tcp 2/tcp]", engineFirst / 2},
		{engineFirst, []Port{cni, podman}, "[1/tcp]", engineFirst / 2}, // docker has bound it
		{2 * engineFirst, []Port{docker, podman}, "[3/tcp]", engineFirst},
	} {
		rest, wait := h.patient(s, step.want, began.Add(step.after))
		if fmt.Sprint(rest) != step.rest || wait != step.wait {
			t.Errorf("after %v: %v, %v; want %s, %v", step.after, rest, wait, step.rest, step.wait)
		}
	}
}

// What an earlier process stored is held further. What has no meaning now is closed, here
// and in systemd.
func TestStoredSockets(t *testing.T) {
	kept := map[string]int{"tcp-8080": 0, "udp-8080": 0, "tcp-08080": 0, "another": 0}
	for name := range kept {
		fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		kept[name] = fd
	}
	isOpen := func(name string) bool {
		_, err := unix.FcntlInt(uintptr(kept[name]), unix.F_GETFD, 0)
		return err == nil
	}
	var forgotten []string
	h := New(Config{Forget: func(name string) error { forgotten = append(forgotten, name); return nil }}, kept)
	want := map[Port]int{{"tcp", 8080}: kept["tcp-8080"], {"udp", 8080}: kept["udp-8080"]}
	if !maps.Equal(h.held, want) || !isOpen("tcp-8080") || !isOpen("udp-8080") {
		t.Errorf("of %v it holds %v", kept, h.held)
	}
	slices.Sort(forgotten)
	if !slices.Equal(forgotten, []string{"another", "tcp-08080"}) || isOpen("another") || isOpen("tcp-08080") {
		t.Errorf("systemd is told to forget %q; of %v, others may be open", forgotten, kept)
	}
	for _, fd := range h.held {
		unix.Close(fd)
	}
}

// A port that stays refused is tried again after some minutes, however often it was tried.
func TestBackOffIsBounded(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	h := New(Config{Log: log}, nil)
	p, now := Port{"tcp", 8080}, time.Now()
	var last time.Duration
	for range 30 {
		h.refuse(p, errRefused, now)
		wait := h.refused[p].again.Sub(now)
		if wait < last || wait > mostPause {
			t.Fatalf("a wait of %v after one of %v", wait, last)
		}
		last = wait
	}
	if last != mostPause {
		t.Errorf("at last a wait of %v, want %v", last, mostPause)
	}
}

// A program may end between the list of sockets and the beginning of the watch. So the
// holder looks once more.
func TestWatchBeginsWithALook(t *testing.T) {
	h := New(Config{}, nil)
	h.watchEnds(true)
	defer h.watchEnds(false)
	select {
	case <-h.ended:
	default:
		t.Error("a program that has just ended would be noticed after minutes")
	}
}
