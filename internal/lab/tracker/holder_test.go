package tracker_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab/tracker"
)

func reuse(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }

func reuseListen(fd int, sa unix.Sockaddr) error {
	return errors.Join(reuse(fd), bindListen(fd, sa))
}

func reuseBind(fd int, sa unix.Sockaddr) error { return errors.Join(reuse(fd), unix.Bind(fd, sa)) }

// What a program can bind on a port that a socket holds for Windows, and the other way
// round.
func TestBesideHolder(t *testing.T) {
	type use = func(fd int, sa unix.Sockaddr) error
	b := newBench(t, tracker.Options{})
	for _, tc := range []struct {
		name                  string
		firstAddr, secondAddr string
		first, second         use
		want                  error
	}{
		{"IPv4", "[::1]:8000", "0.0.0.0:8000", hold, bindListen, nil},
		{"127.0.0.1", "[::1]:8000", "127.0.0.1:8000", hold, bindListen, nil},
		{"both families, SO_REUSEADDR", "[::1]:8000", "[::]:8000", hold, reuseListen, nil},
		{"both families", "[::1]:8000", "[::]:8000", hold, bindListen, unix.EADDRINUSE},
		{"beside bound only, SO_REUSEADDR", "0.0.0.0:8000", "0.0.0.0:8000", reuseBind, reuseListen, nil},
		{"beside bound only", "0.0.0.0:8000", "0.0.0.0:8000", reuseBind, bindListen, unix.EADDRINUSE},
		{"holder after IPv4", "0.0.0.0:8000", "[::1]:8000", reuseListen, hold, nil},
		{"holder after both families", "[::]:8000", "[::1]:8000", reuseListen, hold, unix.EADDRINUSE},
		{"holder after Podman 6, which binds both families", "[::]:8000", "[::1]:8000", unix.Bind, hold, unix.EADDRINUSE},
		{"Podman 6 after the holder", "[::1]:8000", "[::]:8000", hold, unix.Bind, unix.EADDRINUSE},
		{"bound only after IPv4", "0.0.0.0:8000", "0.0.0.0:8000", reuseListen, reuseBind, unix.EADDRINUSE},
	} {
		closeFirst, err := open(t, b, "tcp", tc.firstAddr, tc.first)
		if err != nil {
			t.Fatalf("%s: the first: %v", tc.name, err)
		}
		closeSecond, err := open(t, b, "tcp", tc.secondAddr, tc.second)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		closeSecond()
		closeFirst()
	}
}

// The holder for UDP shows on each kernel, and Windows has the port back with the next
// look after it was closed.
func TestHolderUDP(t *testing.T) {
	for _, old := range []bool{false, true} {
		b := newBench(t, tracker.Options{OldKernel: old})
		closeIt, err := open(t, b, "udp", "[::1]:8000", func(fd int, sa unix.Sockaddr) error {
			return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1), unix.Bind(fd, sa))
		})
		if err != nil {
			t.Fatal(err)
		}
		p := port("udp", 8000)
		knows(t, b, p, true)
		advance(t, b, time.Hour)
		knows(t, b, p, true)
		knows(t, b, port("tcp", 8000), false)
		closeProgram := bind(t, b, "udp", "0.0.0.0:8000") // beside the holder
		advance(t, b, 0)
		closeProgram()
		advance(t, b, 0)
		knows(t, b, p, true)
		closeIt()
		advance(t, b, 0)
		knows(t, b, p, false)
	}
}
