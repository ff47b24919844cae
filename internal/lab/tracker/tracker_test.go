package tracker_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/tracker"
)

func newBench(t *testing.T, opts tracker.Options) *lab.Bench {
	t.Helper()
	mode := lab.Mirrored
	if opts.Consomme {
		mode = lab.Consomme
	}
	return labtest.New(t, lab.Options{Mode: mode, Tracker: &opts})
}

func sockaddr(addr string) (family int, sa unix.Sockaddr) {
	a := netip.MustParseAddrPort(addr)
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// open makes a socket in WSL and has use do something with it there. It is closed with
// the test, or by the function that is returned.
func open(t *testing.T, b *lab.Bench, proto, addr string, use func(fd int, sa unix.Sockaddr) error) (closeIt func(), err error) {
	t.Helper()
	fd := -1
	err = b.WSL.Do(func() error {
		family, sa := sockaddr(addr)
		kind := unix.SOCK_STREAM
		if proto == "udp" {
			kind = unix.SOCK_DGRAM
		}
		var err error
		if fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return use(fd, sa)
	})
	closeIt = func() {
		if fd >= 0 {
			unix.Close(fd)
			fd = -1
		}
	}
	t.Cleanup(closeIt)
	return closeIt, err
}

// bind is open with a bind() that succeeds.
func bind(t *testing.T, b *lab.Bench, proto, addr string) (closeIt func()) {
	t.Helper()
	closeIt, err := open(t, b, proto, addr, unix.Bind)
	if err != nil {
		t.Fatalf("bind %s %s: %v", proto, addr, err)
	}
	return closeIt
}

func port(proto string, number uint16) tracker.Port {
	if proto == "udp" {
		return tracker.Port{Proto: unix.IPPROTO_UDP, Number: number}
	}
	return tracker.Port{Proto: unix.IPPROTO_TCP, Number: number}
}

// knows fails the test if Windows does not know, or knows, a port.
func knows(t *testing.T, b *lab.Bench, p tracker.Port, want bool) {
	t.Helper()
	if got := b.Tracker.Ports(); slices.Contains(got, p) != want {
		t.Errorf("Windows knows %v; port %v: want %t", got, p, want)
	}
}

func advance(t *testing.T, b *lab.Bench, d time.Duration) {
	t.Helper()
	if err := b.Tracker.Advance(d); err != nil {
		t.Fatal(err)
	}
}

const more = 61 * time.Second // than the tracker keeps what it does not see

func TestBindAnnounces(t *testing.T) {
	b := newBench(t, tracker.Options{})
	for i, addr := range []string{"127.0.0.1", "0.0.0.0", "192.0.2.2", "[::1]", "[::]"} {
		for _, proto := range []string{"tcp", "udp"} {
			p := port(proto, uint16(8000+i))
			addr := netip.MustParseAddrPort(addr + ":1").Addr()
			closeIt, err := open(t, b, proto, netip.AddrPortFrom(addr, p.Number).String(), func(fd int, sa unix.Sockaddr) error {
				err := unix.Bind(fd, sa)
				knows(t, b, p, true) // before the program goes on
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			advance(t, b, more)
			knows(t, b, p, true)
			closeIt()
			advance(t, b, 0) // it was seen: there is nothing to wait for
			knows(t, b, p, false)
		}
	}
}

func TestNotAnnounced(t *testing.T) {
	b := newBench(t, tracker.Options{IgnoredPorts: []uint16{8001}})
	bind(t, b, "tcp", "127.0.0.2:8000")
	bind(t, b, "udp", "127.0.0.53:53")
	bind(t, b, "tcp", "0.0.0.0:53")
	bind(t, b, "tcp", "0.0.0.0:8001")
	bind(t, b, "tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), b.FirstPort).String())
	for _, proto := range []string{"tcp", "udp"} {
		// connect() chooses a source port.
		_, err := open(t, b, proto, "127.0.0.1:9", func(fd int, sa unix.Sockaddr) error {
			if err := unix.SetNonblock(fd, true); err != nil {
				return err
			}
			if err := unix.Connect(fd, sa); err != unix.EINPROGRESS {
				return err
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open(t, b, "udp", "192.0.2.1:9", func(fd int, sa unix.Sockaddr) error {
		return unix.Sendto(fd, []byte("x"), 0, sa)
	}); err != nil {
		t.Fatal(err)
	}
	if got := b.Tracker.Ports(); len(got) != 0 {
		t.Errorf("Windows knows %v", got)
	}
	if got := b.Tracker.Binds(); got != 5 {
		t.Errorf("the tracker was asked about %d calls, want the 5 of bind()", got)
	}
}

// Port 0 is outside the block here, so that Windows is asked for what the kernel chose.
func TestPortZero(t *testing.T) {
	for _, tc := range []struct {
		version   tracker.Version
		announced bool
	}{
		{tracker.Version{}, true},
		{tracker.Version{2, 9, 4}, false}, // not of other threads than the first
		{tracker.Version{2, 7, 0}, false},
	} {
		b := newBench(t, tracker.Options{Version: tc.version})
		if err := b.WSL.Sysctl("ipv4/ip_local_port_range", "30000\t30010"); err != nil {
			t.Fatal(err)
		}
		bind(t, b, "tcp", "0.0.0.0:0")
		advance(t, b, 0) // waits for the tracker's thread
		if got := b.Tracker.Ports(); (len(got) == 1) != tc.announced {
			t.Errorf("%v: Windows knows %v, want %t", tc.version, got, tc.announced)
		}
	}
}

func TestListenWithoutBind(t *testing.T) {
	for _, tc := range []struct {
		version   tracker.Version
		announced bool
	}{{tracker.Version{}, true}, {tracker.Version{2, 9, 4}, false}} {
		b := newBench(t, tracker.Options{Version: tc.version})
		if err := b.WSL.Sysctl("ipv4/ip_local_port_range", "30000\t30010"); err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, b, "tcp", "0.0.0.0:0", func(fd int, _ unix.Sockaddr) error { return unix.Listen(fd, 1) }); err != nil {
			t.Fatal(err)
		}
		advance(t, b, 0)
		if got := b.Tracker.Ports(); (len(got) == 1) != tc.announced {
			t.Errorf("%v: Windows knows %v, want %t", tc.version, got, tc.announced)
		}
	}
}

func TestMPTCPNever(t *testing.T) {
	b := newBench(t, tracker.Options{})
	listen := func(addr string) {
		t.Helper()
		err := b.WSL.Do(func() error {
			l, err := new(net.ListenConfig).Listen(context.Background(), "tcp4", addr)
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// net.Listen asks the kernel for MPTCP.
	listen("0.0.0.0:8300")
	calls := b.Tracker.Calls() // the library tries IPv6 once, before
	if len(calls) < 2 || calls[len(calls)-2].Socket != "MPTCP" {
		t.Fatalf("net.Listen makes %v: does the kernel have MPTCP?", calls)
	}
	knows(t, b, port("tcp", 8300), false)
	if err := b.WSL.Sysctl("mptcp/enabled", "0"); err != nil {
		t.Fatal(err)
	}
	listen("0.0.0.0:8301")
	knows(t, b, port("tcp", 8301), true)
}

func TestNamespaceOfTheThread(t *testing.T) {
	b := newBench(t, tracker.Options{})
	if _, err := open(t, b, "tcp", "0.0.0.0:8000", func(fd int, sa unix.Sockaddr) error {
		if err := netns.Set(netns.NsHandle(b.LAN.NetNS())); err != nil {
			return err
		}
		return unix.Bind(fd, sa) // the socket is WSL's
	}); err != nil {
		t.Fatal(err)
	}
	knows(t, b, port("tcp", 8000), false)
}

func TestBoundOnly(t *testing.T) {
	for _, old := range []bool{false, true} {
		b := newBench(t, tracker.Options{OldKernel: old})
		bind(t, b, "tcp", "0.0.0.0:8000")
		bind(t, b, "udp", "0.0.0.0:8000")
		if _, err := open(t, b, "tcp", "0.0.0.0:8001", func(fd int, sa unix.Sockaddr) error {
			return errors.Join(unix.Bind(fd, sa), unix.Listen(fd, 1))
		}); err != nil {
			t.Fatal(err)
		}
		// The holder: connected to itself.
		closeIt, err := open(t, b, "tcp", "[::1]:8002", hold)
		if err != nil {
			t.Fatal(err)
		}
		advance(t, b, 59*time.Second)
		knows(t, b, port("tcp", 8000), true)
		advance(t, b, 2*time.Second)
		knows(t, b, port("tcp", 8000), !old)
		knows(t, b, port("udp", 8000), true)
		knows(t, b, port("tcp", 8001), true)
		knows(t, b, port("tcp", 8002), true)
		closeIt()
		advance(t, b, 0)
		knows(t, b, port("tcp", 8002), false)
	}
}

// hold holds a port for Windows on each kernel.
func hold(fd int, sa unix.Sockaddr) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.Bind(fd, sa), unix.Connect(fd, sa))
}

// What the kernel refuses stays reserved for a minute, and a second try renews that.
func TestKernelRefuses(t *testing.T) {
	for _, tc := range []struct {
		version tracker.Version
		renews  bool
	}{{tracker.Version{}, true}, {tracker.Version{2, 7, 0}, false}} {
		b := newBench(t, tracker.Options{Version: tc.version})
		try := func() {
			t.Helper()
			if _, err := open(t, b, "tcp", "203.0.113.1:8000", unix.Bind); err != unix.EADDRNOTAVAIL {
				t.Fatalf("bind: %v", err)
			}
		}
		try()
		advance(t, b, 40*time.Second)
		knows(t, b, port("tcp", 8000), true)
		try()
		advance(t, b, 40*time.Second)
		knows(t, b, port("tcp", 8000), tc.renews)
		advance(t, b, more)
		knows(t, b, port("tcp", 8000), false)
	}
}

// A connection keeps the port of its listener, where ports are compared.
func TestMatching(t *testing.T) {
	for _, tc := range []struct {
		opts tracker.Options
		kept bool
	}{
		{tracker.Options{}, true},
		{tracker.Options{Version: tracker.Version{2, 8, 4}}, false},
		{tracker.Options{Consomme: true}, false},
	} {
		b := newBench(t, tc.opts)
		closeIt := bind(t, b, "udp", "0.0.0.0:8000")
		advance(t, b, 0)
		closeIt()
		// The trapped bind is for another address, and the port is the same.
		if _, err := open(t, b, "udp", "127.0.0.2:8000", unix.Bind); err != nil {
			t.Fatal(err)
		}
		advance(t, b, 0)
		knows(t, b, port("udp", 8000), tc.kept)
	}
}

func TestRefused(t *testing.T) {
	b := newBench(t, tracker.Options{})
	b.Tracker.Refuse(port("tcp", 8000))
	if _, err := open(t, b, "tcp", "0.0.0.0:8000", unix.Bind); err != unix.EADDRINUSE {
		t.Errorf("bind: %v", err)
	}
	bind(t, b, "udp", "0.0.0.0:8000")
}

// In consomme Windows' error is no errno, so the program believes that it has the port.
func TestRefusedInConsomme(t *testing.T) {
	b := newBench(t, tracker.Options{Consomme: true})
	b.Tracker.Refuse(port("tcp", 8000))
	if _, err := open(t, b, "tcp", "0.0.0.0:8000", func(fd int, sa unix.Sockaddr) error {
		if err := unix.Bind(fd, sa); err != nil {
			t.Errorf("bind: %v", err)
		}
		if name, err := unix.Getsockname(fd); err != nil || name.(*unix.SockaddrInet4).Port != 0 {
			t.Errorf("it has port %v, %v", name, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if calls := b.Tracker.Calls(); len(calls) != 1 || -calls[0].Result != 2147014848 {
		t.Errorf("bind returned %v", calls)
	}
	// Only IPv4 holds a port of 127.0.0.1 there.
	bind(t, b, "tcp", "[::1]:8001")
	knows(t, b, port("tcp", 8001), false)
	bind(t, b, "tcp", "127.0.0.1:8002")
	knows(t, b, port("tcp", 8002), true)
}

// Each call waits for the one before, whatever its socket is.
func TestOneSlowThread(t *testing.T) {
	const pause, n = 20 * time.Millisecond, 5
	b := newBench(t, tracker.Options{Pause: pause})
	bind(t, b, "tcp", "0.0.0.0:8000")
	start := time.Now()
	err := b.WSL.Do(func() error {
		for range n {
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
				return err
			}
		}
		return nil
	})
	if took := time.Since(start); err != nil || took < (n-1)*pause {
		t.Errorf("%d calls took %v, %v", n, took, err)
	}
	if calls := b.Tracker.Calls(); calls[len(calls)-1].Socket != "NETLINK 0" {
		t.Errorf("asked about %v", calls)
	}
}

func TestDeadTracker(t *testing.T) {
	b := newBench(t, tracker.Options{})
	bind(t, b, "tcp", "0.0.0.0:8000")
	_, err := open(t, b, "tcp", "0.0.0.0:8001", func(fd int, sa unix.Sockaddr) error {
		b.Tracker.Kill()
		return unix.Bind(fd, sa)
	})
	if err != unix.ENOSYS {
		t.Errorf("bind of one that was there: %v", err)
	}
	if _, err := open(t, b, "udp", "0.0.0.0:8001", unix.Bind); err != unix.ENOSYS {
		t.Errorf("bind of one that comes: %v", err)
	}
	knows(t, b, port("tcp", 8000), true)
}

// A program that WSL starts is trapped, this one's other threads are not, and Windows
// sends what it has heard of to Linux.
func TestBench(t *testing.T) {
	b := newBench(t, tracker.Options{})
	if _, err := b.WSL.ServeEcho("udp", "127.0.0.1:9000"); err != nil {
		t.Fatal(err)
	}
	// A link that has just come up may lose a datagram.
	labtest.Eventually(t, "Windows is answered", func() bool {
		answer, err := b.Windows.Ask("udp", "127.0.0.1:9000", time.Second)
		return err == nil && answer == "WSL"
	})
	before := b.Tracker.Binds()
	if _, err := b.WSL.Run("ip", "link"); err != nil {
		t.Fatal(err)
	}
	if b.Tracker.Binds() == before {
		t.Error("the bind() of a program is not seen")
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil || !strings.Contains(string(status), "\nSeccomp:\t0\n") {
		t.Errorf("this process: %s, %v", status, err)
	}
}
