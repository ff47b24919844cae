package tracker_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab/tracker"
)

func bindListen(fd int, sa unix.Sockaddr) error {
	return errors.Join(unix.Bind(fd, sa), unix.Listen(fd, 1))
}

// A second program tries the port of a listener. If the tracker does not look before the
// listener has gone, the port stays for a minute. A look in between sees the listener's
// socket, so the port goes with it; before 2.8.5 the address must be the same as well.
func TestKernelRefusesInUse(t *testing.T) {
	for _, tc := range []struct {
		version    tracker.Version
		addr       string
		look, kept bool
	}{
		{tracker.Version{}, "0.0.0.0:8000", false, true},
		{tracker.Version{}, "0.0.0.0:8000", true, false},
		{tracker.Version{}, "127.0.0.1:8000", true, false},
		{tracker.Version{2, 8, 4}, "127.0.0.1:8000", true, true},
	} {
		b := newBench(t, tracker.Options{Version: tc.version})
		closeIt, err := open(t, b, "tcp", "0.0.0.0:8000", bindListen)
		if err != nil {
			t.Fatal(err)
		}
		advance(t, b, 0)
		if _, err := open(t, b, "tcp", tc.addr, unix.Bind); err != unix.EADDRINUSE {
			t.Fatalf("bind: %v", err)
		}
		if tc.look {
			advance(t, b, 0)
		}
		closeIt()
		advance(t, b, 55*time.Second)
		knows(t, b, port("tcp", 8000), tc.kept)
		advance(t, b, 6*time.Second)
		knows(t, b, port("tcp", 8000), false)
	}
}

// A program without the privilege cannot have a port below 1024, and Windows keeps it for
// a minute nevertheless.
func TestKernelRefusesPrivilege(t *testing.T) {
	b := newBench(t, tracker.Options{})
	for _, proto := range []string{"tcp", "udp"} {
		p := port(proto, 80)
		_, err := open(t, b, proto, "0.0.0.0:80", func(fd int, sa unix.Sockaddr) error {
			// The thread ends with this function.
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var caps [2]unix.CapUserData
			if err := unix.Capget(&header, &caps[0]); err != nil {
				return err
			}
			caps[0].Effective &^= 1 << unix.CAP_NET_BIND_SERVICE
			if err := unix.Capset(&header, &caps[0]); err != nil {
				return err
			}
			return unix.Bind(fd, sa)
		})
		if err != unix.EACCES {
			t.Fatalf("bind %s: %v", proto, err)
		}
		advance(t, b, 55*time.Second)
		knows(t, b, p, true)
		advance(t, b, 6*time.Second)
		knows(t, b, p, false)
	}
}

// Windows hears of an MPTCP listener's port if another program tries to bind it: the
// kernel refuses, and the tracker finds the listener's TCP socket.
func TestKernelRefusesBesideMPTCP(t *testing.T) {
	b := newBench(t, tracker.Options{})
	var l net.Listener
	err := b.WSL.Do(func() (err error) {
		l, err = new(net.ListenConfig).Listen(context.Background(), "tcp4", "0.0.0.0:8000")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := port("tcp", 8000)
	advance(t, b, 0)
	knows(t, b, p, false)
	if _, err := open(t, b, "tcp", "0.0.0.0:8000", unix.Bind); err != unix.EADDRINUSE {
		t.Fatalf("bind: %v", err)
	}
	advance(t, b, more)
	knows(t, b, p, true)
	advance(t, b, more)
	knows(t, b, p, true)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	advance(t, b, 0)
	knows(t, b, p, false)
}
