package e2e

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// A server's backlog is full when the first daemon starts, or when another daemon takes
// over. The server has answered before, so its clients are not refused.
func TestDaemonStartsBesideABusyServer(t *testing.T) {
	for name, before := range map[string]bool{"the first daemon": false, "a successor": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{Ports: 4096})
			accept := listenWithBacklog(t, b.WSL, 9000)
			var d *daemon
			if before {
				d = start(t, b.WSL)
				d.awaitState(status.Active)
			}
			// Two connections fill the backlog.
			for range 2 {
				comesTo(t, "while there is room", b.WSL, "127.0.0.1:9000", "connected")
			}
			c := crowd{N: 50, Port: 9000, Wait: labtest.Patience()}
			come := c.start(t, b)
			next := start(t, b.WSL)
			if before {
				next.awaitState(status.Standby)
				d.stop(unix.SIGTERM)
			}
			next.awaitState(status.Active)
			<-time.After(3500 * time.Millisecond) // meanwhile each SYN is retransmitted twice
			accept()
			allCome(t, name, c, come, "connected")
		})
	}
}

// During thousands of requests to closed ports, servers answer, and other closed ports
// still refuse.
func TestFloodOfClosedPorts(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{Ports: 4096})
	start(t, b.WSL).awaitState(status.Active)
	for addr, server := range map[string]*lab.Host{"127.0.0.1:9000": b.WSL, "127.0.0.1:9001": b.Windows} {
		if _, err := server.ServeEcho("tcp", addr); err != nil {
			t.Fatal(err)
		}
	}
	c := crowd{N: 5000, Port: 10000, Scan: true, Wait: longer}
	come := c.start(t, b)
	for range 50 {
		comesTo(t, "in a flood", b.WSL, "127.0.0.1:9000", "connected")
		comesTo(t, "in a flood", b.WSL, "127.0.0.1:9001", "connected")
	}
	if o := come(); o.Came["connected"] > 0 || o.Came["refused"]+o.Came["waiting"] != c.N {
		t.Errorf("%+v", o)
	}
	// The kernel sends at most a thousand ICMP messages a second, so this may take more
	// than two SYNs.
	comesTo(t, "after a flood", b.WSL, "127.0.0.1:7999", "refused")
}

// All closed ports refuse, even if a tool tries as many as it can at once.
func TestManyClosedPorts(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{Ports: 4096})
	start(t, b.WSL).awaitState(status.Active)
	c := crowd{N: 200, Port: 10000, Scan: true, Wait: labtest.Patience()}
	slowest := allCome(t, "closed ports", c, c.start(t, b), "refused")
	// Some take a few more SYNs: the kernel sends only 50 ICMP messages in a row
	// (icmp_msgs_burst).
	if t.Logf("the slowest of %d took %v", c.N, slowest); slowest > patience {
		t.Errorf("the slowest of %d refusals took %v", c.N, slowest)
	}
}

// Connections of containers to a server in Windows take no source port from Linux's own
// clients of that server: Windows sends only the ports of its block back to Linux.
func TestToWindowsLeavesLinuxItsSourcePorts(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	serveWhoIs(t, b.Windows, "127.0.0.1:7005")
	start(t, b.WSL, "--to-windows=7005").awaitToWindows("7005/tcp")
	for range 100 {
		c, err := engine.Container.Dial("tcp", "", "172.17.0.1:7005", patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	for range 100 {
		c, err := b.WSL.Dial("tcp", "", "127.0.0.1:7005", patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		answer, err := c.Ask(patience)
		if got := who(b, answer, err); got != "Windows" {
			t.Errorf("a client of Linux: %s, %v", got, err)
		}
	}
}

// A container that connects to a port that is closed in Windows is refused, as without
// wslmirror, and does not wait for two minutes.
func TestToWindowsRefusesAClosedPort(t *testing.T) {
	for _, mode := range lab.Modes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{Mode: mode})
			engine, err := b.StartStandIn()
			if err != nil {
				t.Fatal(err)
			}
			comesTo(t, "without wslmirror", engine.Container, "172.17.0.1:7005", "refused")
			start(t, b.WSL, "--to-windows=7005").awaitToWindows("7005/tcp")
			comesTo(t, "with wslmirror", engine.Container, "172.17.0.1:7005", "refused")
		})
	}
}

// A user's own rule for packets from containers to a port stays in effect.
func TestToWindowsBesideARedirect(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	serveWhoIs(t, b.Windows, "127.0.0.1:7005")
	if _, err := b.WSL.ServeEcho("tcp", "0.0.0.0:7010"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WSL.Run("nft", `table ip users { chain arriving { type nat hook prerouting priority dstnat; iifname "docker0" tcp dport 7005 redirect to :7010; }; }`); err != nil {
		t.Fatal(err)
	}
	asks(t, b, "without wslmirror", engine.Container, "tcp", "172.17.0.1:7005", "WSL")
	start(t, b.WSL, "--to-windows=7005").awaitState(status.Active)
	asks(t, b, "with wslmirror", engine.Container, "tcp", "172.17.0.1:7005", "WSL")
}

// A program in Linux that accepts only what arrives on the containers' bridge also keeps
// its port.
func TestToWindowsBesideAServerOfTheBridge(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	serveWhoIs(t, b.Windows, "127.0.0.1:7005")
	serveOnDevice(t, b.WSL, "docker0", 7005)
	asks(t, b, "without wslmirror", engine.Container, "udp", "172.17.0.1:7005", "WSL")
	start(t, b.WSL, "--to-windows=7005/udp").awaitState(status.Active)
	asks(t, b, "with wslmirror", engine.Container, "udp", "172.17.0.1:7005", "WSL")
}

// serveOnDevice answers datagrams that arrive on a link with the name of the host.
func serveOnDevice(t *testing.T, h *lab.Host, dev string, port int) {
	t.Helper()
	var fd int
	err := h.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err = unix.BindToDevice(fd, dev); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Port: port})
	})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		buf := make([]byte, 100)
		for {
			_, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil || from == nil { // shut down
				return
			}
			unix.Sendto(fd, []byte(h.Name), 0, from)
		}
	})
	t.Cleanup(func() {
		unix.Shutdown(fd, unix.SHUT_RDWR)
		serving.Wait()
		unix.Close(fd)
	})
}

// A connection of a container to Windows continues, whatever happens to ports, addresses
// and daemons.
func TestToWindowsConnectionsGoOn(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	serveWhoIs(t, b.Windows, "127.0.0.1:7005")
	d := start(t, b.WSL, "--to-windows=7005")
	d.awaitToWindows("7005/tcp")
	c, err := engine.Container.Dial("tcp", "", "172.17.0.1:7005", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	goesOn := func(when string) {
		t.Helper()
		answer, err := c.Ask(patience)
		if got := who(b, answer, err); got != "Windows" {
			t.Errorf("%s: %s, %v", when, got, err)
		}
	}
	goesOn("at first")
	s, err := b.WSL.ServeEcho("tcp", "0.0.0.0:7005")
	if err != nil {
		t.Fatal(err)
	}
	d.awaitToWindows("")
	goesOn("Linux listens")
	s.Close() // fails if a connection ends at this moment
	d.awaitToWindows("7005/tcp")
	goesOn("Linux does not listen any more")

	standby := start(t, b.WSL, "--to-windows=7005")
	standby.awaitState(status.Standby)
	d.stop(unix.SIGTERM)
	d = standby
	d.awaitToWindows("7005/tcp")
	goesOn("handed over")
	if _, err := b.WSL.Run("ip", "address", "add", "192.0.2.3/24", "dev", "eth0"); err != nil {
		t.Fatal(err)
	}
	d.awaitToWindows("7005/tcp")
	goesOn("another address")
	if err := b.AddBridge("br-1", netip.MustParsePrefix("172.18.0.1/16")); err != nil {
		t.Fatal(err)
	}
	goesOn("another bridge")
	if err := b.FlushRuleset(); err != nil {
		t.Fatal(err)
	}
	goesOn("flushed")
	d.await("ports to Windows again", func(status.Snapshot) bool { return d.direction(status.ContainersToWindows).Active })
	goesOn("flushed, and restored")
	if err := b.ReplugLoopback0(); err != nil {
		t.Fatal(err)
	}
	goesOn("replugged")
}

// A daemon that takes over uses its own settings.
func TestToWindowsEndsWithASuccessor(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	serveWhoIs(t, b.Windows, "127.0.0.1:7005")
	before := world(t, b.WSL)
	d := start(t, b.WSL, "--to-windows=7005")
	d.awaitToWindows("7005/tcp")
	standby := start(t, b.WSL)
	standby.awaitState(status.Standby)
	asks(t, b, "the first", engine.Container, "tcp", "172.17.0.1:7005", "Windows")
	d.stop(unix.SIGTERM)
	standby.awaitState(status.Active)
	labtest.Eventually(t, "the bridge is shut", func() bool { return routeLocalnet(t, b.WSL, "docker0") == "0" })
	asks(t, b, "the second", engine.Container, "tcp", "172.17.0.1:7005", "refused")
	standby.stop(unix.SIGTERM)
	if after := world(t, b.WSL); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}
