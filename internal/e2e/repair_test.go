package e2e

import (
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// world returns everything that wslmirror may change in h and must leave as it was.
func world(t *testing.T, h *lab.Host) string {
	t.Helper()
	var all strings.Builder
	all.WriteString(filled.ReplaceAllString(ruleset(t, h), "$1"))
	for _, args := range [][]string{{"-4", "rule"}, {"-4", "route", "show", "table", "all"}} {
		out, err := h.Run("ip", args...)
		if err != nil {
			t.Fatal(err)
		}
		// A bridge or a veth takes a moment to see its carrier.
		all.WriteString(strings.ReplaceAll(out, " linkdown", ""))
	}
	for _, key := range []string{"all", "default", "loopback0", "eth0", "docker0"} {
		for _, name := range []string{"route_localnet", "rp_filter", "accept_local"} {
			value, _ := h.GetSysctl("ipv4/conf/" + key + "/" + name) // docker0 may not exist
			all.WriteString(key + "/" + name + "=" + value + "\n")
		}
	}
	return all.String()
}

// filled matches the elements of a set that packets fill; they come and go.
var filled = regexp.MustCompile(`(?s)(\t\tflags dynamic,timeout\n\t\ttimeout [^\n]*\n)\t\telements = \{.*?\}\n`)

// What outlives the process is undone on stop, and after a crash by cleanup or by the next
// start.
func TestLeavesTheWorldAsItWas(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	docker := labtest.StartDocker(t, b, "--userland-proxy=false")
	labtest.RunContainer(t, docker, "web", "8080:80/tcp", "127.0.0.1:8081:80/tcp")
	lateLoopback0(t, b, "8081")
	before := world(t, b.WSL)
	expect := func(when string) {
		t.Helper()
		if after := world(t, b.WSL); after != before {
			t.Errorf("%s: before\n%s\nafter\n%s", when, before, after)
		}
	}
	run := func(args ...string) {
		t.Helper()
		p, err := b.WSL.Start(asService(t, args...))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Errorf("wslmirror %v: %v", args, err)
		}
	}
	for range 2 {
		d := start(t, b.WSL)
		d.awaitState(status.Active)
		if world(t, b.WSL) == before {
			t.Fatal("the daemon changes nothing")
		}
		d.stop(unix.SIGTERM)
		expect("SIGTERM")
	}

	d := start(t, b.WSL)
	d.awaitState(status.Active)
	run("cleanup") // in another distribution; this one is active
	if out, err := b.WSL.Run("ip", "rule"); err != nil || !strings.Contains(out, "fwmark 0x1000/0x1000") {
		t.Errorf("cleanup took the ip rule of a daemon that runs: %v\n%s", err, out)
	}
	d.proc.Stop(unix.SIGKILL)
	if world(t, b.WSL) == before {
		t.Error("kill -9 leaves nothing, so cleanup is not tested")
	}
	run("cleanup")
	expect("kill -9 and cleanup")
	run("cleanup")
	expect("cleanup once more")

	d = start(t, b.WSL)
	d.awaitState(status.Active)
	d.proc.Stop(unix.SIGKILL)
	d = start(t, b.WSL, "--repair=false")
	d.awaitState(status.Active)
	if out, err := b.WSL.Run("ip", "rule"); err != nil || strings.Contains(out, "fwmark") {
		t.Errorf("--repair=false leaves the ip rule of an earlier run: %v\n%s", err, out)
	}
	d.stop(unix.SIGTERM)
	expect("kill -9, then a start without repair and SIGTERM")
}

// Replies are marked only while a container may send some, and the counters continue when
// that begins and ends.
func TestMarksRepliesWhileNeeded(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	if _, err := b.StartStandIn(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:9000"); err != nil {
		t.Fatal(err)
	}
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	var packets uint64
	// expect waits until replies are marked, or are not. Each time it checks that a
	// connection from Windows is counted and that earlier counts are kept.
	expect := func(when string, marked bool) {
		t.Helper()
		d.await(when, func(status.Snapshot) bool {
			return strings.Contains(ruleset(t, b.WSL), "chain flowmark {") == marked
		})
		if answer, err := b.Windows.Ask("tcp", "127.0.0.1:9000", patience); err != nil || answer != "WSL" {
			t.Errorf("%s: %q, %v", when, answer, err)
		}
		s, _ := d.status()
		if s.Rule.Packets != packets+1 {
			t.Errorf("%s: counted %d, after %d", when, s.Rule.Packets, packets)
		}
		packets = s.Rule.Packets
	}
	do := func(name string, args ...string) {
		t.Helper()
		if _, err := b.WSL.Run(name, args...); err != nil {
			t.Fatal(err)
		}
	}
	expect("nothing is published", false)

	// As Docker does without a proxy.
	do("sysctl", "-q", "net.ipv4.conf.docker0.route_localnet=1")
	do("nft", `table ip engine {
		chain to { ip daddr 127.0.0.1 tcp dport 8081 dnat to 172.17.0.2:80; }
		chain arriving { type nat hook prerouting priority dstnat; jump to; }
		chain leaving { type nat hook output priority -100; jump to; }
	}`)
	d.awaitPaths("8081/tcp kernel")
	expect("an engine serves a port", true)
	if answer, err := b.WSL.Ask("tcp", "127.0.0.1:8081", patience); err != nil || answer != "container" {
		t.Errorf("Linux to the container: %q, %v", answer, err)
	}

	do("nft", "delete", "table", "ip", "engine")
	d.await("no port", func(s status.Snapshot) bool { return len(s.Ports) == 0 })
	expect("the engine has no rule for a moment", true)

	do("sysctl", "-q", "net.ipv4.conf.docker0.route_localnet=0")
	expect("the bridge is shut", false)
	d.stop(unix.SIGTERM)
}

// lateLoopback0 adds the rule that Docker 28 writes for a port that is published on
// 127.0.0.1 if loopback0 does not exist when dockerd starts (moby#53382).
func lateLoopback0(t *testing.T, b *lab.Bench, port string) {
	t.Helper()
	for _, command := range []string{
		"add table ip raw",
		"add chain ip raw PREROUTING { type filter hook prerouting priority raw; policy accept; }",
		"flush chain ip raw PREROUTING",
		"add rule ip raw PREROUTING iifname != lo ip daddr 127.0.0.1 tcp dport " + port + " counter drop",
	} {
		if _, err := b.WSL.Run("nft", command); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLateLoopback0(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	docker := labtest.StartDocker(t, b)
	labtest.RunContainer(t, docker, "web", "127.0.0.1:8081:80/tcp", "127.0.0.1:8082:80/tcp")
	lateLoopback0(t, b, "8081")
	// A rule for loopback0 alone is deliberate.
	if _, err := b.WSL.Run("nft", "add rule ip raw PREROUTING iifname loopback0 tcp dport 8082 drop"); err != nil {
		t.Fatal(err)
	}
	ask := func(port, want string) {
		t.Helper()
		for _, client := range []*lab.Host{b.Windows, b.WSL} {
			answers(t, "with rules in raw PREROUTING", client, "tcp", port, want)
		}
	}
	ask("8081", "")
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	ask("8081", "web")
	ask("8082", "")

	// The engine rewrites its chain.
	lateLoopback0(t, b, "8081")
	labtest.Eventually(t, "the rule comes again", func() bool { return strings.Contains(ruleset(t, b.WSL), "wslmirror: from Windows") })
	ask("8081", "web")

	// The container is removed, and the reason disappears with it.
	if _, err := b.WSL.Run("nft", "delete", "table", "ip", "raw"); err != nil {
		t.Fatal(err)
	}
	lateLoopback0(t, b, "8083")
	d.await("calm", func(status.Snapshot) bool {
		list := ruleset(t, b.WSL)
		return strings.Count(list, "wslmirror: from Windows") == 1 && strings.Contains(list, "dport 8083 counter accept")
	})
	d.stop(unix.SIGTERM)
	if list := ruleset(t, b.WSL); strings.Contains(list, "wslmirror") {
		t.Errorf("left behind:\n%s", list)
	}
}
