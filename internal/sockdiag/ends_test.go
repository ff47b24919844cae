package sockdiag

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The end of a socket that held a port is reported, the end of a connection is not.
func TestEnds(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("not root")
		}
		t.Skip("not root") // needs a network namespace of its own
	}
	// A network namespace without other sockets.
	runtime.LockOSThread() // and never unlock, so that the thread ends
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	up(t, "lo")
	ends, err := WatchEnds()
	if err != nil {
		t.Fatal(err)
	}
	defer ends.Close()
	next := make(chan error)
	go func() {
		for err := error(nil); err == nil; {
			err = ends.Next()
			next <- err
		}
	}()
	heard := func(what string) {
		t.Helper()
		select {
		case err := <-next:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("the end of %s is not told", what)
		}
	}
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // an MPTCP connection ends as several sockets
	l, err := plain.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	server.Close()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp.Close()
	heard("a socket of UDP")
	select {
	case <-next:
		t.Error("the end of a connection is told")
	case <-time.After(100 * time.Millisecond): // an event that must not come can only be waited for briefly
	}
	l.Close()
	heard("a listener")
}

func up(t *testing.T, name string) {
	t.Helper()
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	r.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r); err != nil {
		t.Fatal(err)
	}
}
