package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/trace"
)

// The forecast for random rulesets is compared with what happens: where it is certain, it
// is right. WSLMIRROR_RULESETS is the number of rulesets, and WSLMIRROR_SEED the first
// seed; the same seed gives the same ruleset.
func TestTraceAsKernel(t *testing.T) {
	rulesets, seed := number("WSLMIRROR_RULESETS", 60), number("WSLMIRROR_SEED", 0)
	count := map[trace.Verdict]int{}
	benches := map[string]*lab.Bench{}
	for n := range rulesets {
		seed := seed + n
		path := []string{"none", "proxy", "direct"}[seed%3]
		if benches[path] == nil {
			benches[path] = traceBench(t, path)
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 0))
			b := benches[path]
			rules := loadRandom(t, b, r)
			// Flows that began under other rules keep their NAT.
			if err := b.WSL.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }); err != nil {
				t.Fatal(err)
			}
			for _, port := range []string{"8080", "9000", "8080/udp", "9000/udp"} {
				if r.IntN(2) == 0 {
					continue
				}
				for client, f := range forecasts(t, b, port) {
					count[f.Verdict]++
					if wrong := contradicts(t, b, client, port, f); wrong != "" {
						t.Errorf("from %s to %s, path %s: it %s (%s), but %s\n%s\n%s", client, port, path, f.Verdict, f.Why, wrong, tell(t, b, port), rules)
					}
				}
			}
		})
	}
	t.Logf("%d rulesets: forecasts %v", rulesets, count)
	if count[trace.Reaches] == 0 || count[trace.Stops] == 0 || 2*count[trace.Unknown] > count[trace.Reaches]+count[trace.Stops] {
		t.Errorf("the forecasts tell too little: %v", count)
	}
}

// number returns the value of an environment variable.
func number(name string, otherwise int) int {
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		return otherwise
	}
	return n
}

// loadRandom loads rules that nft accepts: it refuses some combinations.
func loadRandom(t *testing.T, b *lab.Bench, r *rand.Rand) string {
	t.Helper()
	for try := 0; ; try++ {
		rules := randomFirewall(r)
		_, err := b.WSL.Run("sh", "-c", "exec nft -f - <<'END'\n"+rules+"END")
		if err == nil {
			return rules
		}
		if try == 20 {
			t.Fatalf("%v\n%s", err, rules)
		}
	}
}

// traceBench has a container and a server, each on both protocols, and a wslmirror that is
// stopped in the middle of its work, so that it does not react when the rules change.
func traceBench(t *testing.T, path string) *lab.Bench {
	b := labtest.New(t, lab.Options{Ports: 4096})
	// Some rules send the proxy to itself, until no port is left. Those ports must not wait
	// for a minute after the rules have gone.
	if err := b.WSL.Sysctl("ipv4/tcp_max_tw_buckets", "1"); err != nil {
		t.Fatal(err)
	}
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := engine.Container.Start(exec.Command("sleep", "infinity")); err != nil {
		t.Fatal(err)
	}
	for _, proto := range []string{"tcp", "udp"} {
		if err := engine.Publish(proto, "0.0.0.0:8080"); err != nil {
			t.Fatal(err)
		}
		if _, err := b.WSL.ServeEcho(proto, "0.0.0.0:9000"); err != nil {
			t.Fatal(err)
		}
	}
	if path == "none" {
		return b
	}
	d := start(t, b.WSL, "--path="+path)
	d.await("two ports", func(s status.Snapshot) bool {
		return s.State == status.Active && len(s.Ports) == 2 && (path == "proxy" || s.Ports[0].Path == status.PathDirect)
	})
	if err := d.proc.Cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	return b
}

// contradicts describes what happens, if it differs from the forecast.
func contradicts(t *testing.T, b *lab.Bench, client trace.Client, port string, f trace.Trace) string {
	t.Helper()
	h := map[trace.Client]*lab.Host{trace.Windows: b.Windows, trace.Linux: b.WSL}[client]
	number, proto, udp := strings.Cut(port, "/")
	if !udp {
		proto = "tcp"
	}
	wait, tries := 120*time.Millisecond, 1 // requests that are dropped time out
	switch f.Verdict {
	case trace.Unknown:
		return ""
	case trace.Reaches:
		// A connection that earlier rules have cut off may still use, at its other end, the
		// port that this client takes.
		wait, tries = patience, 3
	}
	for ; ; tries-- {
		answer, err := h.Ask(proto, "127.0.0.1:"+number, wait)
		switch {
		case (err == nil) == (f.Verdict == trace.Reaches):
			return ""
		case tries == 1:
			return fmt.Sprintf("%s is told %q, %v", client, answer, err)
		}
	}
}

// randomFirewall writes tables with chains on all hooks. Some of their matches are known to
// the forecast and some are not.
func randomFirewall(r *rand.Rand) string {
	var b strings.Builder
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	match := func() string {
		return pick(
			`iif "loopback0"`, `iif != "loopback0"`, `oif "loopback0"`, `oif != "lo"`, `iifname "docker0"`, `oifname "docker*"`, `iifname { "lo", "docker0" }`,
			"ip saddr 127.0.0.0/8", "ip daddr 127.0.0.1", "ip daddr != 127.0.0.0/8", "ip saddr 172.17.0.0/16", "ip daddr { 127.0.0.1, 172.17.0.2 }", "ip saddr 172.17.0.2 ip daddr 172.17.0.1",
			"tcp dport 8080", "udp dport { 8080, 9000 }", "tcp dport 80", "tcp sport { 80, 8080 }", "th dport 8000-9100", "tcp dport != 9000", "meta l4proto . th dport { tcp . 8080, udp . 9000 }",
			"meta l4proto tcp", "meta l4proto udp", "ip protocol tcp", "ct state new", "ct state established,related", "ct status dnat", "ct status snat", "ct direction reply",
			"meta l4proto tcp ct original proto-dst 8080", "tcp flags & (syn|ack) == syn", "fib daddr type local", "fib saddr type local", "fib daddr type != local",
			"meta mark 0x7", "ct mark 0x7", "meta mark & 0x1000 != 0", "meta mark 0",
			"limit rate 1000/second", "numgen inc mod 2 0", "meta skuid 0", "ip ttl 64", "ip length > 60", "tcp dport 32768-61000",
		)
	}
	matches := func() string {
		if r.IntN(3) == 0 {
			return match()
		}
		return match() + " " + match()
	}
	rule := func(hook, kind string) string {
		verdict := pick("accept", "accept", "drop", "return", "counter", "continue", "jump sub", "goto sub", "meta mark set 0x7", "ct mark set 0x7", "meta mark set ct mark")
		switch {
		case kind != "nat" || r.IntN(3) == 0:
			if kind == "filter" && r.IntN(12) == 0 {
				verdict = "reject"
			}
			if verdict == "reject" && (hook == "prerouting" || hook == "postrouting") {
				verdict = "drop"
			}
		case hook == "prerouting" || hook == "output":
			proto := pick("tcp", "udp")
			return fmt.Sprintf("%s meta l4proto %s %s", matches(), proto, pick(
				"dnat ip to 127.0.0.1", "dnat ip to 127.0.0.1:9000", "dnat ip to 172.17.0.2:80", "dnat ip to 172.17.0.2:80", "dnat ip to 172.17.0.2:81",
				"redirect to :9000", "redirect", "dnat ip to "+proto+" dport map { 8080 : 172.17.0.2, 9000 : 127.0.0.1 }", "dnat ip to 172.17.0.1:8080"))
		default:
			return matches() + " " + pick("masquerade", "masquerade", "snat ip to 127.0.0.1", "snat ip to 172.17.0.1")
		}
		if hook == "input" && strings.Contains(verdict, "masquerade") {
			verdict = "accept"
		}
		return matches() + " " + verdict
	}
	for _, table := range []string{"ip r0", "inet r1"} {
		fmt.Fprintf(&b, "table %s\ndelete table %s\ntable %s {\n\tchain sub {\n", table, table, table)
		for range r.IntN(3) {
			fmt.Fprintf(&b, "\t\t%s %s\n", matches(), pick("accept", "drop", "return", "meta mark set 0x7"))
		}
		b.WriteString("\t}\n")
		for n := range 1 + r.IntN(3) {
			hook := pick("prerouting", "input", "forward", "output", "postrouting")
			kind, priority := "filter", []int{-300, -150, -140, -50, 0, 10, 50, 110, 150, 300}[r.IntN(10)]
			switch {
			case hook != "forward" && r.IntN(3) == 0:
				kind, priority = "nat", []int{-110, -102, -90, 90, 102, 110}[r.IntN(6)]
			case hook == "output" && r.IntN(3) == 0:
				kind = "route"
			}
			policy := pick("accept", "accept", "accept", "drop")
			fmt.Fprintf(&b, "\tchain c%d {\n\t\ttype %s hook %s priority %d; policy %s\n", n, kind, hook, priority, policy)
			if policy == "drop" && r.IntN(2) == 0 {
				fmt.Fprintf(&b, "\t\tct state established,related accept\n")
			}
			for range 1 + r.IntN(4) {
				line := rule(hook, kind)
				if hook == "input" {
					line = strings.ReplaceAll(line, "masquerade", "accept")
				}
				fmt.Fprintf(&b, "\t\t%s\n", line)
			}
			b.WriteString("\t}\n")
		}
		b.WriteString("}\n")
	}
	return b.String()
}
