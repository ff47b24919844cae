package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// The addresses of Linux that a container knows: its gateway, which is
// host.docker.internal, and the LAN address.
var linuxAddrs = []string{"172.17.0.1", "192.0.2.2"}

// serveWhoIs makes a host answer on TCP and UDP with the client's address and port as it
// sees them.
func serveWhoIs(t *testing.T, h *lab.Host, addr string) {
	t.Helper()
	err := h.Do(func() error {
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					for lines := bufio.NewScanner(c); lines.Scan(); {
						fmt.Fprintln(c, c.RemoteAddr())
					}
				}()
			}
		}()
		d, err := net.ListenPacket("udp4", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { d.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				_, from, err := d.ReadFrom(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				} else if err == nil {
					d.WriteTo([]byte(from.String()), from)
				}
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// asks sends a request and requires an answer: "Windows" is that of serveWhoIs to one of
// Linux's own ports, "refused" is ECONNREFUSED, and "" is none, whatever the error.
func asks(t *testing.T, b *lab.Bench, when string, client *lab.Host, proto, addr, want string) {
	t.Helper()
	wait := patience
	if want == "" {
		wait = silence
	}
	answer, err := client.Ask(proto, addr, wait)
	got := who(b, answer, err)
	if want == "" && err != nil {
		got = ""
	}
	if got != want {
		t.Errorf("%s: %s asks %s %s: %s (%q, %v); want %q", when, client.Name, proto, addr, got, answer, err, want)
	}
}

// who returns which server has given an answer.
func who(b *lab.Bench, answer string, err error) string {
	from, notWindows := netip.ParseAddrPort(answer)
	var network net.Error
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return "refused"
	case errors.As(err, &network) && network.Timeout():
		return ""
	case err != nil:
		return err.Error()
	case notWindows != nil:
		return answer
	case from.Addr().String() != "127.0.0.1" || from.Port() < b.FirstPort || from.Port() > b.LastPort:
		return "Windows, from " + answer
	}
	return "Windows"
}

// Containers, and no other clients, reach the servers on Windows' 127.0.0.1 that the user
// has named, at Linux's addresses. All changes are undone.
func TestContainersReachWindows(t *testing.T) {
	for _, mode := range lab.Modes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{Mode: mode})
			engine, err := b.StartStandIn()
			if err != nil {
				t.Fatal(err)
			}
			for _, port := range []string{"11434", "11435"} {
				serveWhoIs(t, b.Windows, "127.0.0.1:"+port)
			}
			before := world(t, b.WSL)
			alone := func(when, port string) {
				t.Helper()
				for _, at := range linuxAddrs {
					asks(t, b, when, engine.Container, "tcp", at+":"+port, "refused")
					asks(t, b, when, engine.Container, "udp", at+":"+port, "")
				}
			}
			alone("without wslmirror", "11434")
			d := start(t, b.WSL)
			d.awaitState(status.Active)
			alone("without the flag", "11434")
			if got := routeLocalnet(t, b.WSL, "docker0"); got != "0" {
				t.Errorf("without the flag route_localnet of docker0 is %s", got)
			}
			if got := d.direction(status.ContainersToWindows); got.Active {
				t.Errorf("without the flag: %+v", got)
			}
			d.stop(unix.SIGTERM)

			const flag = "--to-windows=11434,11434/udp,11436"
			d = start(t, b.WSL, flag)
			d.awaitToWindows("11434/tcp, 11436/tcp, 11434/udp")
			for _, at := range linuxAddrs {
				for _, proto := range []string{"tcp", "udp"} {
					asks(t, b, "with the flag", engine.Container, proto, at+":11434", "Windows")
				}
			}
			if got := d.direction(status.ContainersToWindows); got.Connections != 4 {
				t.Errorf("counted %+v, not 4 connections", got)
			}
			alone("a port that was not named", "11435")
			for proto, nobody := range map[string]string{"tcp": "refused", "udp": ""} {
				asks(t, b, "Linux itself", b.WSL, proto, "127.0.0.1:11434", "Windows")
				asks(t, b, "the LAN", b.LAN, proto, "192.0.2.2:11434", nobody)
			}
			d.stop(unix.SIGTERM)
			alone("stopped", "11434")
			if after := world(t, b.WSL); after != before {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}

			d = start(t, b.WSL, flag)
			d.awaitToWindows("11434/tcp, 11436/tcp, 11434/udp")
			d.proc.Stop(unix.SIGKILL)
			if world(t, b.WSL) == before {
				t.Error("kill -9 leaves nothing, so cleanup is not tested")
			}
			if code, out := ends(t, b.WSL, asService(t, "cleanup")); code != exitOK {
				t.Errorf("cleanup: exit %d, %s", code, out)
			}
			alone("cleaned up", "11434")
			if after := world(t, b.WSL); after != before {
				t.Errorf("before\n%s\nkilled and cleaned up\n%s", before, after)
			}

			// The next daemon does so as well, without the flag.
			d = start(t, b.WSL, flag)
			d.awaitToWindows("11434/tcp, 11436/tcp, 11434/udp")
			d.proc.Stop(unix.SIGKILL)
			d = start(t, b.WSL)
			labtest.Eventually(t, "route_localnet is put back", func() bool { return routeLocalnet(t, b.WSL, "docker0") == "0" })
			d.stop(unix.SIGTERM)
			if after := world(t, b.WSL); after != before {
				t.Errorf("before\n%s\nafter a crash and another policy\n%s", before, after)
			}
		})
	}
}

// awaitToWindows waits until containers reach Windows on these ports, "" for none.
func (d *daemon) awaitToWindows(ports string) {
	d.t.Helper()
	d.await("ports to Windows: "+ports, func(s status.Snapshot) bool {
		for _, dir := range s.Directions {
			if dir.Name == status.ContainersToWindows {
				return strings.Join(dir.Ports, ", ") == ports && dir.Active == (ports != "") &&
					(ports == "" || strings.Contains(ruleset(d.t, d.host), `elements = { "docker0" }`) && routeLocalnet(d.t, d.host, "docker0") == "1")
			}
		}
		return false
	})
}

// A port on which Linux listens stays Linux's, whatever the user has named, and so does a
// port that an engine publishes.
func TestToWindowsLeavesLinuxItsPorts(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	for _, proto := range []string{"tcp", "udp"} {
		if err := engine.Publish(proto, "0.0.0.0:8080"); err != nil {
			t.Fatal(err)
		}
		for _, addr := range []string{"0.0.0.0:7001", "172.17.0.1:7002", "127.0.0.1:7003", "192.0.2.2:7004"} {
			if _, err := b.WSL.ServeEcho(proto, addr); err != nil {
				t.Fatal(err)
			}
		}
	}
	for port := 7001; port <= 7005; port++ {
		serveWhoIs(t, b.Windows, fmt.Sprintf("127.0.0.1:%d", port))
	}
	serveWhoIs(t, b.Windows, "127.0.0.1:8080")
	linux := func(when string) {
		t.Helper()
		for _, proto := range []string{"tcp", "udp"} {
			for addr, want := range map[string]string{
				"172.17.0.1:7001": "WSL", "192.0.2.2:7001": "WSL",
				"172.17.0.1:7002": "WSL", "192.0.2.2:7002": "refused",
				"172.17.0.1:7003": "refused", "192.0.2.2:7003": "refused",
				"172.17.0.1:7004": "refused", "192.0.2.2:7004": "WSL",
				"172.17.0.1:8080": "container", "192.0.2.2:8080": "container",
			} {
				if port := strings.TrimPrefix(addr, "192.0.2.2:"); proto == "udp" && (port == "7001" || port == "8080") {
					continue // a server on all addresses answers from the bridge's address
				}
				if proto == "udp" && want == "refused" {
					want = "" // the kernel reports this to a peer only six times in a row
				}
				asks(t, b, when, engine.Container, proto, addr, want)
			}
		}
	}
	linux("without wslmirror")
	d := start(t, b.WSL, "--to-windows=7001,7001/udp,7002,7002/udp,7003,7003/udp,7004,7004/udp,7005,7005/udp,8080,8080/udp")
	d.awaitToWindows("7005/tcp, 7005/udp")
	linux("with wslmirror")
	if got := d.direction(status.ContainersToWindows); !strings.Contains(got.Reason, "7001") || !strings.Contains(got.Reason, "8080") {
		t.Errorf("status does not say what it leaves out: %+v", got)
	}

	// Programs start and end.
	for range 2 {
		for _, proto := range []string{"tcp", "udp"} {
			asks(t, b, "Linux does not listen", engine.Container, proto, "172.17.0.1:7005", "Windows")
		}
		var servers []*lab.Server
		for _, proto := range []string{"tcp", "udp"} {
			s, err := b.WSL.ServeEcho(proto, "0.0.0.0:7005")
			if err != nil {
				t.Fatal(err)
			}
			servers = append(servers, s)
		}
		d.status() // starts a pass
		for _, proto := range []string{"tcp", "udp"} {
			asks(t, b, "Linux listens", engine.Container, proto, "172.17.0.1:7005", "WSL")
		}
		for _, s := range servers {
			s.Close() // fails if a connection ends at this moment
		}
		d.status()
		tellWindows(t, b)
	}
}

// tellWindows tells Windows at once which ports Linux has bound.
func tellWindows(t *testing.T, b *lab.Bench) {
	t.Helper()
	c, err := b.WSL.Dial("udp", "", "127.0.0.1:9", patience)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// A UDP client that keeps sending from one port follows all changes.
func TestToWindowsMovesDatagrams(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	serveWhoIs(t, b.Windows, "127.0.0.1:7005")
	var clients []*lab.Client
	for i, at := range linuxAddrs {
		c, err := engine.Container.Dial("udp", fmt.Sprintf("172.17.0.2:%d", 5000+i), at+":7005", patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		clients = append(clients, c)
	}
	expect := func(when, want string) {
		t.Helper()
		for i, c := range clients {
			wait := patience
			if want == "" {
				wait = silence
			}
			answer, err := c.Ask(wait)
			if got := who(b, answer, err); got != want && !(want == "" && got == "refused") {
				t.Errorf("%s: at %s: %s; want %s", when, linuxAddrs[i], got, want)
			}
		}
	}
	// listen makes Linux serve the port on both addresses, until its result is called.
	listen := func() (stop func()) {
		t.Helper()
		var servers []*lab.Server
		for _, at := range linuxAddrs {
			s, err := b.WSL.ServeEcho("udp", at+":7005")
			if err != nil {
				t.Fatal(err)
			}
			servers = append(servers, s)
		}
		return func() {
			for _, s := range servers {
				s.Close()
			}
			tellWindows(t, b)
		}
	}
	for how, end := range map[string]func(*daemon){
		"stopped": func(d *daemon) { d.stop(unix.SIGTERM) },
		"killed and cleaned up": func(d *daemon) {
			d.proc.Stop(unix.SIGKILL)
			ends(t, b.WSL, asService(t, "cleanup"))
		},
		// A crash, after which the user has changed the settings.
		"killed, and without the flag": func(d *daemon) {
			d.proc.Stop(unix.SIGKILL)
			d = start(t, b.WSL)
			d.awaitState(status.Active)
			d.proc.Stop(unix.SIGKILL)
		},
	} {
		expect("without wslmirror", "")
		d := start(t, b.WSL, "--to-windows=7005/udp")
		d.awaitToWindows("7005/udp")
		expect("with wslmirror", "Windows")
		stop := listen()
		d.status() // starts a pass
		expect("Linux listens", "WSL")
		stop()
		d.status()
		expect("Linux does not listen any more", "Windows")
		end(d)
		stop = listen()
		expect(how, "WSL")
		stop()
	}
}

// Bridges, addresses and loopback0 come and go, the ruleset is flushed, and another daemon
// takes over: containers still reach Windows. The test does not request the daemon's
// status, because that would start a pass.
func TestToWindowsFollows(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	serveWhoIs(t, b.Windows, "127.0.0.1:7005")
	const flag = "--to-windows=7005,7005/udp"
	d := start(t, b.WSL, flag)
	run := func(name string, args ...string) {
		t.Helper()
		if _, err := b.WSL.Run(name, args...); err != nil {
			t.Fatal(err)
		}
	}
	reaches := func(when string, client *lab.Host, at ...string) {
		t.Helper()
		for _, proto := range []string{"tcp", "udp"} {
			for _, at := range at {
				labtest.Eventually(t, fmt.Sprintf("%s: %s reaches %s %s", when, client.Name, proto, at), func() bool {
					answer, err := client.Ask(proto, at+":7005", silence)
					return who(b, answer, err) == "Windows"
				})
			}
		}
	}
	reaches("at first", engine.Container, linuxAddrs...)

	run("ip", "address", "add", "192.0.2.3/24", "dev", "eth0")
	reaches("another address", engine.Container, "192.0.2.3", "172.17.0.1")
	run("ip", "address", "del", "192.0.2.3/24", "dev", "eth0")
	reaches("an address less", engine.Container, linuxAddrs...)

	// A compose network.
	if err := b.AddBridge("br-1", netip.MustParsePrefix("172.18.0.1/16")); err != nil {
		t.Fatal(err)
	}
	other, err := b.AddContainer("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Plug(other, "veth1", "br-1", netip.MustParsePrefix("172.18.0.2/16"), netip.MustParseAddr("172.18.0.1")); err != nil {
		t.Fatal(err)
	}
	reaches("another network", other, "172.18.0.1", "172.17.0.1", "192.0.2.2")
	if err := b.RemoveLink("br-1"); err != nil {
		t.Fatal(err)
	}
	labtest.Eventually(t, "the second bridge is forgotten", func() bool {
		out, err := b.WSL.Run("ip", "rule")
		return err == nil && !strings.Contains(out, "br-1")
	})
	reaches("one bridge less", engine.Container, linuxAddrs...)

	if err := b.FlushRuleset(); err != nil {
		t.Fatal(err)
	}
	reaches("the ruleset was flushed", engine.Container, linuxAddrs...)
	for range 3 {
		if err := b.ReplugLoopback0(); err != nil {
			t.Fatal(err)
		}
		reaches("loopback0 was replugged", engine.Container, linuxAddrs...)
	}

	for _, up := range []bool{false, true} {
		if err := b.SetLink("docker0", up); err != nil {
			t.Fatal(err)
		}
	}
	reaches("docker0 was down", engine.Container, linuxAddrs...)

	// docker0 is replaced by another bridge.
	if err := b.RemoveLink("docker0"); err != nil {
		t.Fatal(err)
	}
	if err := b.AddBridge("docker0", netip.MustParsePrefix("172.17.0.1/16")); err != nil {
		t.Fatal(err)
	}
	run("ip", "link", "set", "veth0", "master", "docker0")
	reaches("docker0 is a new one", engine.Container, linuxAddrs...)

	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		standby := start(t, b.WSL, flag)
		standby.awaitState(status.Standby)
		d.proc.Stop(sig)
		d = standby
		d.awaitState(status.Active)
		reaches("another daemon took over after "+unix.SignalName(sig), engine.Container, linuxAddrs...)
	}
	d.stop(unix.SIGTERM)
	if got := routeLocalnet(t, b.WSL, "docker0"); got != "0" {
		t.Errorf("route_localnet of docker0 is %s in the end", got)
	}
	if out, err := b.WSL.Run("ip", "rule"); err != nil || strings.Contains(out, "fwmark") || hasTable(t, b.WSL) {
		t.Errorf("left behind: %v\n%s\n%s", err, out, ruleset(t, b.WSL))
	}
}

// Beside each engine, containers of its networks reach Windows, and its published ports
// still work.
func TestToWindowsBesideEngines(t *testing.T) {
	for _, kind := range lab.Engines {
		t.Run(kind.Name, func(t *testing.T) {
			b := labtest.New(t, lab.Options{})
			engine := labtest.StartEngine(t, b, kind.Name)
			labtest.RunContainer(t, engine, "web", "8080:80/tcp", "8080:80/udp")
			serveWhoIs(t, b.Windows, "127.0.0.1:7005")
			before := world(t, b.WSL)
			d := start(t, b.WSL, "--to-windows=7005,7005/udp,8080,8080/udp")
			d.awaitState(status.Active)
			// One more container on the engine's bridge, from which the test can send
			// packets.
			client, err := b.AddContainer("client")
			if err != nil {
				t.Fatal(err)
			}
			bridge, prefix := bridgeOf(t, b.WSL)
			addr := netip.PrefixFrom(netip.AddrFrom4([4]byte{prefix.Addr().As4()[0], prefix.Addr().As4()[1], 200, 200}), prefix.Bits())
			if err := b.Plug(client, "veth99", bridge, addr, prefix.Addr()); err != nil {
				t.Fatal(err)
			}
			for _, at := range []string{prefix.Addr().String(), "192.0.2.2"} {
				for _, proto := range []string{"tcp", "udp"} {
					labtest.Eventually(t, fmt.Sprintf("a container reaches Windows at %s %s", proto, at), func() bool {
						answer, err := client.Ask(proto, at+":7005", silence)
						return who(b, answer, err) == "Windows"
					})
				}
			}
			asks(t, b, "with wslmirror", client, "tcp", prefix.Addr().String()+":8080", "web")
			for _, from := range []*lab.Host{b.Windows, b.WSL} {
				for _, proto := range []string{"tcp", "udp"} {
					answers(t, "with wslmirror", from, proto, "8080", "web")
				}
			}
			d.stop(unix.SIGTERM)
			if err := b.RemoveLink("veth99"); err != nil {
				t.Fatal(err)
			}
			if after := world(t, b.WSL); after != before {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
		})
	}
}

// bridgeOf returns the containers' bridge and its address.
func bridgeOf(t *testing.T, h *lab.Host) (name string, addr netip.Prefix) {
	t.Helper()
	links, err := h.Net.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Type() != "bridge" {
			continue
		}
		addrs, err := h.Net.AddrList(l, unix.AF_INET)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			ip, _ := netip.AddrFromSlice(a.IP.To4())
			bits, _ := a.Mask.Size()
			return l.Attrs().Name, netip.PrefixFrom(ip, bits)
		}
	}
	t.Fatal("there is no bridge with an address")
	panic("unreachable")
}
