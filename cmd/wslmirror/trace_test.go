package main

import (
	"bytes"
	"flag"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/trace"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

func TestTraceUsage(t *testing.T) {
	for line, want := range map[string]string{
		"":                        "trace needs a port",
		"8080 9090":               `trace takes one port, and no argument "9090"`,
		"x":                       `"x" is not a port`,
		"8080/icmp":               `"icmp" is not a protocol`,
		"8080 --from mars":        `unknown client "mars"`,
		"8080 --live=0":           `--live: "0" is not a number of seconds`,
		"8080 --live x":           `--live: "x" is not a number of seconds`,
		"--live 8080 9090 1":      "trace takes one port",
		"8080 --from container:":  `unknown client "container:"`,
		"8080 --from container:x": `no engine reports an address for a container "x"`,
	} {
		t.Run(line, func(t *testing.T) {
			labtest.Programs(t, map[string]string{"docker": "exit 1", "podman": "exit 1"})
			var out, errs bytes.Buffer
			if code := run(append([]string{"trace"}, strings.Fields(line)...), &out, &errs); code != exitUsage || !strings.Contains(errs.String(), want) {
				t.Errorf("exit %d, %q, want %q", code, errs.String(), want)
			}
		})
	}
}

func TestQuestions(t *testing.T) {
	labtest.Programs(t, map[string]string{"docker": "exit 1", "podman": `[ "$7" = web ] && echo "10.88.0.2 "`})
	port := ruleset.Port{Proto: unix.IPPROTO_UDP, Number: 53}
	for from, want := range map[string]string{
		"": "windows linux", "lan": "lan", "container:172.17.0.2": "container 172.17.0.2", "container:web": "container 10.88.0.2",
	} {
		questions, err := questionsOf(port, from)
		var got []string
		for _, q := range questions {
			got = append(got, string(q.From))
			if q.From == trace.Container {
				got = append(got, q.Addr.String())
			}
			if q.Port != port {
				t.Errorf("asks for %s", q.Port)
			}
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v", from, got, err)
		}
	}
}

// One way that stops and one that is not certain, as they are printed.
var printed = []trace.Trace{
	{
		From: trace.Windows, Verdict: trace.Stops, Why: "the policy of inet fw in drops it",
		Fix: []string{"sudo nft insert rule inet fw in iifname loopback0 ip daddr 127.0.0.1 accept"},
		Hops: []trace.Hop{
			{Kind: trace.Arrives, Link: "loopback0", Verdict: "arrive", From: "127.0.0.1", To: "127.0.0.1:8080", Sure: true},
			{Kind: trace.InChain, Table: "ip wslmirror", Chain: "WSLPREROUTING", Handle: 7, Comment: "mirrored", Verdict: "dnat", To: "127.0.0.1:8080", Sure: true},
			{Kind: trace.InChain, Table: "ip nat", Chain: "PREROUTING", Verdict: "skip", Sure: true},
			{Kind: trace.InChain, Table: "ip mangle", Chain: "PREROUTING", Verdict: "pass", Sure: true},
			{Kind: trace.Routed, Link: "lo", RouteTable: "local", Rule: "0: from all iif loopback0 ipproto tcp lookup local", Verdict: "local", Sure: true},
			{Kind: trace.InChain, Table: "inet fw", Chain: "in", Verdict: "drop", Sure: true, Stops: true},
		},
	},
	{
		From: trace.Linux, Verdict: trace.Unknown, Why: "inet fw out may drop it: this rule depends on more than trace knows", Fix: []string{},
		Hops: []trace.Hop{
			{Kind: trace.Routed, Link: "loopback0", RouteTable: "127", Rule: "1: from all ipproto tcp lookup 127", Verdict: "out", Sure: true},
			{Kind: trace.InChain, Table: "inet fw", Chain: "out", Handle: 3, Verdict: "drop"},
			{Kind: trace.Leaves, Link: "loopback0", Sure: true},
			{Kind: trace.AtWindows, Verdict: "return", Sure: true},
			{Kind: trace.AtSocket, To: "127.0.0.1:8080", Verdict: "proxy", Program: "docker-proxy", PID: 161, Sure: true},
			{Kind: trace.InsideHost, To: "172.17.0.2:80", Verdict: "listen", Program: labtest.Hostile, PID: 7, Sure: true, Proxied: true},
			{Kind: trace.Routed, Link: "loopback0", RouteTable: "127", Verdict: "out", Sure: true, Reply: true},
		},
	},
}

func TestPrintTraces(t *testing.T) {
	port := ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 8080}
	for _, width := range []int{60, 80, 200} {
		var b bytes.Buffer
		for _, tr := range printed {
			printTrace(&b, screen{width: width}, port, tr)
		}
		if r, found := labtest.Unprintable(b.String()); found {
			t.Errorf("prints %q", r)
		}
		for line := range strings.Lines(b.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width && !strings.Contains(line, "sudo nft") {
				t.Errorf("%d columns in %d: %q", n, width, line)
			}
		}
		if width != 80 {
			continue
		}
		hostile := strings.NewReplacer("\n", "?", "\x1b", "?", "\a", "?", "\u009b", "?", "\u202e", "?").Replace(strings.ToValidUTF8(labtest.Hostile, "\ufffd"))
		want := fmt.Sprintf(`From Windows to port 8080/tcp                                       ✗ stops at 5
  1  loopback0                    127.0.0.1 → 127.0.0.1:8080
  2  ip wslmirror WSLPREROUTING   dnat to 127.0.0.1:8080, by "mirrored"
  3  ip nat PREROUTING            skipped: NAT is already settled
  4  table local                  for this machine, by ip rule 0: from all iif
                                  loopback0 ipproto tcp lookup local
  5  inet fw in                   drop by policy ◀ here
  Why:  the policy of inet fw in drops it
  Fix:  sudo nft insert rule inet fw in iifname loopback0 ip daddr 127.0.0.1 accept
From Linux to port 8080/tcp                                        ? not certain
  1  table 127        to loopback0, by ip rule 1: from all ipproto tcp lookup
                      127
  2  inet fw out      may drop by rule 3
  3  Windows          sends it back: a socket in Linux uses the port
  4  127.0.0.1:8080   docker-proxy (161), the proxy of a container
     the proxy's own connection:
  5  172.17.0.2:80    %s (7) listens
     the answer:
  6  table 127        to loopback0
  Why:  inet fw out may drop it: this rule depends on more than trace knows
`, hostile)
		if b.String() != want {
			t.Errorf("prints\n%s\nwant\n%s", b.String(), want)
		}
	}
}

func TestLiveFlag(t *testing.T) {
	for line, want := range map[string]string{
		"8080": "0 8080", "8080 --live": "10 8080", "--live 8080": "10 8080", "8080 --live 30": "30 8080", "--live 30 8080": "30 8080",
		"30 --live 30": "30 30", "8080 --live=5": "5 8080", "--live=false 8080": "0 8080", "8080 --live --json": "10 8080",
	} {
		var live liveFlag
		flags := flag.NewFlagSet("trace", flag.ContinueOnError)
		flags.Var(&live, "live", "")
		flags.Bool("json", false, "")
		args := strings.Fields(line)
		words, err := parseAll(flags, args)
		if err == nil && live > 0 {
			words, err = live.seconds(args, words)
		}
		if got := fmt.Sprint(live.String(), " ", strings.Join(words, " ")); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", line, got, err, want)
		}
	}
}

// Packets as they are counted, at each width.
func TestPrintLive(t *testing.T) {
	port := ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 8080}
	forecast := trace.Hop{Kind: trace.InChain, Table: "inet fw", Chain: "in", Verdict: "pass", Sure: true}
	dropped := forecast
	dropped.Verdict, dropped.Handle, dropped.Comment = "drop", 7, labtest.Hostile
	report := liveReport{Seconds: 2, Missed: 1, Clients: []trace.Live{
		{From: trace.Windows, Requests: 3, Agrees: false, Hops: []trace.LiveHop{
			{Hop: trace.Hop{Kind: trace.Arrives, Link: "loopback0"}, Packets: 3, Forecast: &trace.Hop{}},
			{Hop: dropped, Packets: 3, Forecast: &forecast, Differs: true},
			{Hop: trace.Hop{Kind: trace.AtSocket, To: "127.0.0.1:8080"}, Forecast: &trace.Hop{Kind: trace.AtSocket, To: "127.0.0.1:8080"}},
		}},
		{From: trace.Linux, Agrees: true},
		{From: trace.Proxy, Agrees: true},
	}}
	for _, width := range []int{60, 80, 200} {
		var b bytes.Buffer
		printClient(&b, screen{width: width}, port, report.Clients[0])
		labtest.WantAll(t, strings.Join(strings.Fields(b.String()), " "), "Windows to 8080/tcp: 3 packets, 0 answers ✗ 1 difference",
			"3 loopback0 ✓ arrives", `3 inet fw in ✗ drop by`, "forecast: pass by policy")
		if strings.Contains(b.String(), "127.0.0.1:8080") {
			t.Errorf("shows a hop to which nothing came:\n%s", &b)
		}
		for line := range strings.Lines(b.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width && !strings.Contains(line, `\a`) {
				t.Errorf("%d columns in %d: %q", n, width, line)
			}
		}
		if r, found := labtest.Unprintable(b.String()); found {
			t.Errorf("prints %q", r)
		}
	}
	var b bytes.Buffer
	if err := printLive(&b, screen{width: 80}, port, report); err != nil {
		t.Fatal(err)
	}
	labtest.WantAll(t, b.String(), "1 packet arrived too fast to be inspected", "no packets")
	if strings.Contains(b.String(), "proxy") {
		t.Errorf("shows a proxy that has sent nothing:\n%s", &b)
	}
	b.Reset()
	if err := printLive(&b, screen{width: 80}, ruleset.Port{Proto: unix.IPPROTO_UDP, Number: 53}, liveReport{Seconds: 10, Clients: report.Clients[1:]}); err != nil {
		t.Fatal(err)
	}
	if want := "\nNo packet to 53/udp in 10 s. While trace waits, send one:\n  in Linux:    bash -c \"echo A >/dev/udp/127.0.0.1/53\"\n"; b.String() != want {
		t.Errorf("prints %q, want %q", &b, want)
	}
}
