package e2e

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// Rules that other programs write beside an engine's. Each stands for a kind of rule. What
// such a rule does to packets says nothing about who serves a published port.

// outputRules are rules that proxies on this machine write at the output hook.
var outputRules = map[string][]string{
	"a transparent proxy for one port": {"nft insert rule ip nat OUTPUT meta skuid != 1337 tcp dport 8080 redirect to :12345"},
	"a transparent proxy for all TCP":  {"nft insert rule ip nat OUTPUT meta skuid 1001 meta l4proto tcp redirect to :12345"},
	"a bare redirect":                  {"nft insert rule ip nat OUTPUT meta skuid 1001 redirect"},
	"redsocks for one user":            {"iptables-nft -t nat -I OUTPUT -p tcp -m owner --uid-owner 1001 -j REDIRECT --to-ports 12345"},
	"a mark sends elsewhere":           {"iptables-nft -t nat -I OUTPUT -p tcp -m mark --mark 0x539 -j DNAT --to-destination 10.0.0.9:15001"},
	"a user sent to the container":     {"iptables-nft -t nat -I OUTPUT -p tcp -m owner --uid-owner 1001 -j DNAT --to-destination 172.17.0.2:80"},
	"a table of its own": {"nft table inet proxy { chain output { type nat hook output priority -150; meta mark 0x2024 return; meta skuid 1001 meta l4proto tcp redirect to :41873; }; }",
		"nft table inet proxy { chain prerouting { type nat hook prerouting priority -99; meta mark 0x2024 return; ip daddr 127.0.0.0/8 return; meta l4proto tcp redirect to :41873; }; }"},
}

// A rule at the output hook alone does not turn off the repair, and route_localnet of a
// bridge is restored whatever such rules do to a port.
func TestProxiesBesideAnEngine(t *testing.T) {
	for name, rules := range outputRules {
		t.Run(name, func(t *testing.T) {
			b := labtest.New(t, lab.Options{})
			engine, err := b.StartStandIn()
			if err != nil {
				t.Fatal(err)
			}
			if err := engine.Publish("tcp", "0.0.0.0:8080"); err != nil {
				t.Fatal(err)
			}
			for _, r := range rules {
				if _, err := b.WSL.Run("sh", "-c", r); err != nil && !strings.HasPrefix(r, "nft ") {
					t.Fatal(err)
				}
				if command, found := strings.CutPrefix(r, "nft "); found {
					if _, err := b.WSL.Run("nft", command); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, path := range []string{status.PathProxy, status.PathDirect} {
				for how, end := range map[string]func(*daemon){
					"SIGTERM": func(d *daemon) { d.stop(unix.SIGTERM) },
					"kill -9, and cleanup": func(d *daemon) {
						d.proc.Stop(unix.SIGKILL)
						on(t, b.WSL, "cleanup")
					},
				} {
					d := start(t, b.WSL, "--path", path)
					d.awaitState(status.Active)
					awaitAnswer(t, b.Windows, "8080", "container")
					end(d)
					if got := routeLocalnet(t, b.WSL, "docker0"); got != "0" {
						t.Errorf("path %s: after %s docker0 has route_localnet=%s", path, how, got)
					}
				}
			}
		})
	}
}

// Workarounds that users write against this fault work the same with wslmirror as without:
// here an accept ahead of Docker's jump at the output hook, and a conntrack zone for
// arriving packets, which makes packets from Linux meet Docker's rules on their way back
// (moby#53553).
func TestWorkaroundBesideDockerWithoutProxy(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	docker := labtest.StartDocker(t, b, "--userland-proxy=false")
	labtest.RunContainer(t, docker, "web", "8080:80/tcp", "8080:80/udp")
	for _, r := range []string{
		"iptables-nft -t nat -I OUTPUT -m addrtype --dst-type LOCAL -j ACCEPT",
		"iptables-nft -t raw -I PREROUTING -m addrtype --dst-type LOCAL -j CT --zone-orig 1",
	} {
		if _, err := b.WSL.Run("sh", "-c", r); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		for _, proto := range []string{"tcp", "udp"} {
			answers(t, when, b.Windows, proto, "8080", "web")
			answers(t, when, b.WSL, proto, "8080", "web")
		}
	}
	check("without wslmirror")
	for _, path := range []string{status.PathProxy, status.PathDirect} {
		d := start(t, b.WSL, "--path", path)
		d.awaitPaths("8080/tcp kernel, 8080/udp kernel")
		check("with wslmirror, path " + path)
		d.stop(unix.SIGTERM)
	}
	check("afterwards")
}

// The daemon works even beside very large sets of others.
func TestBesideHugeSets(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Publish("tcp", "0.0.0.0:8080"); err != nil {
		t.Fatal(err)
	}
	if err := b.WSL.Blocklist(300_000); err != nil {
		t.Fatal(err)
	}
	d := start(t, b.WSL, "--path", "direct")
	d.awaitPaths("8080/tcp direct")
	answers(t, "beside a blocklist", b.Windows, "tcp", "8080", "container")
	// The address itself is looked up in the set; nothing is guessed.
	if _, err := b.WSL.Run("nft", "add element inet blocklist drop_here { 172.17.0.2 }"); err != nil {
		t.Fatal(err)
	}
	d.awaitPaths("8080/tcp proxy: other rules drop what is forwarded to it, or may")
	d.stop(unix.SIGTERM)
}

// Nobody can change a table that another process owns. The status of the port says so, and
// the daemon serves everything else.
func TestBesideATableThatIsOwned(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"8080", "8081", "8082"} {
		if err := engine.Publish("tcp", "127.0.0.1:"+port); err != nil {
			t.Fatal(err)
		}
	}
	owned, err := b.WSL.OwnTable("firewall", 8081)
	if err != nil {
		t.Fatal(err)
	}
	lateLoopback0(t, b, "8082")
	d := start(t, b.WSL)
	s := d.await("the reason", func(s status.Snapshot) bool {
		return s.State == status.Active && len(s.Ports) == 3 && s.Ports[1].Reason != ""
	})
	if s.Ports[0].Reason != "" || !strings.Contains(s.Ports[1].Reason, "firewall") {
		t.Errorf("%+v", s.Ports)
	}
	answers(t, "beside a table that is owned", b.Windows, "tcp", "8080", "container")
	answers(t, "ahead of a drop in a table that is not", b.Windows, "tcp", "8082", "container")
	if err := owned.Close(); err != nil {
		t.Fatal(err)
	}
	// The kernel sends no event for that. The next change is an event.
	if _, err := b.WSL.Run("nft", "add table ip another"); err != nil {
		t.Fatal(err)
	}
	d.await("no reason", func(s status.Snapshot) bool { return s.Ports[1].Reason == "" })
	answers(t, "when the table has gone", b.Windows, "tcp", "8081", "container")
	d.stop(unix.SIGTERM)
	if list := ruleset(t, b.WSL); strings.Contains(list, "wslmirror") {
		t.Errorf("left behind:\n%s", list)
	}
}

// A user's rule for packets that arrive, written for the LAN, does not mean that a proxy
// listens on 127.0.0.1: a server in Linux has the port there, with either path.
func TestServerBesideARuleForTheLAN(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	if _, err := b.StartStandIn(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WSL.ServeEcho("tcp", "0.0.0.0:8001"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WSL.Run("nft", `insert rule ip nat PREROUTING iifname != "loopback0" tcp dport 8001 dnat to 172.17.0.2:80`); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{status.PathProxy, status.PathDirect} {
		d := start(t, b.WSL, "--path", path)
		d.awaitState(status.Active)
		for _, client := range []*lab.Host{b.Windows, b.WSL} {
			answers(t, "path "+path, client, "tcp", "8001", "WSL")
		}
		d.stop(unix.SIGTERM)
	}
}

// No command claims a proxy for ports that are redirected without one: by the rules of
// systemd-nspawn --port, and by a user's own redirect.
func TestPublishedWithoutProxy(t *testing.T) {
	playMirrored(t)
	b := labtest.New(t, lab.Options{})
	if _, err := b.StartStandIn(); err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"2222", "2223", "9000"} {
		if _, err := b.WSL.ServeEcho("tcp", "0.0.0.0:"+port); err != nil {
			t.Fatal(err)
		}
	}
	for _, table := range []string{`table ip io.systemd.nat {
		map map_port_ipport { type inet_proto . inet_service : ipv4_addr . inet_service; elements = { tcp . 2222 : 172.17.0.2 . 80 }; }
		chain prerouting { type nat hook prerouting priority dstnat + 1; fib daddr type local dnat ip to meta l4proto . th dport map @map_port_ipport; }
		chain output { type nat hook output priority -99; ip daddr != 127.0.0.0/8 fib daddr type local dnat ip to meta l4proto . th dport map @map_port_ipport; }
	}`, `table ip mine { chain p { type nat hook prerouting priority dstnat; iif "loopback0" tcp dport 2223 dnat to 127.0.0.1:9000; }; }`} {
		if _, err := b.WSL.Run("nft", table); err != nil {
			t.Fatal(err)
		}
	}
	d := start(t, b.WSL)
	d.awaitPaths("2222/tcp proxy, 2223/tcp kernel")
	_, status := on(t, b.WSL, "status", "--runtime-dir", d.dir)
	_, ports := on(t, b.WSL, "ports", "--runtime-dir", d.dir)
	labtest.WantAll(t, unfolded(status), "WSLPREROUTING sends it to the listener in Linux", "other rules forward it")
	labtest.WantAll(t, unfolded(ports), "localhost, through other rules that forward it")
	diagnosis := diagnose(t, b.WSL, d.dir)
	diagnosis.expect(t, "with ports that others send on")
	for name, text := range map[string]string{
		"status": status, "ports": ports, "doctor": diagnosis.String(), "trace 2222": tell(t, b, "2222"), "trace 2223": tell(t, b, "2223"),
	} {
		if text = unfolded(text); strings.Contains(text, "engine's") || strings.Contains(text, "proxy of") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
	for _, port := range []string{"2222", "2223"} {
		answers(t, "beside rules of others", b.Windows, "tcp", port, "WSL")
	}
}
