package netwatch_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/netwatch"
)

func mustRules(t *testing.T, c *netwatch.Conn) []netwatch.Rule {
	t.Helper()
	rules, err := c.Rules()
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// Every rule that "ip rule" can add and that can be read is written as the same rule
// and deleted again. A rule that cannot be expressed is refused.
func TestWriteRules(t *testing.T) {
	b := labtest.New(t, lab.Options{Mode: lab.MirroredHAL})
	conn := open(t, b.WSL)
	before := mustRules(t, conn)
	for _, args := range []string{
		"pref 0 fwmark 0x1000/0x1000 lookup local protocol 87",
		"pref 5 not from 10.0.0.0/8 to 192.0.2.7 fwmark 0x1/0xff iif eth0 oif lo lookup 99",
		"pref 6 tos 0x10 lookup main suppress_prefixlength 0", "pref 6 fwmark 7 lookup 100000",
		"pref 8 ipproto 132 prohibit", "pref 9 blackhole", "pref 10 unreachable", "pref 11 goto 32766", "pref 12 nop",
		"pref 14 l3mdev", "pref 15 ipproto udp lookup 100 protocol 87",
	} {
		if _, err := b.WSL.Run("sh", "-c", "ip rule add "+args); err != nil {
			t.Fatal(err)
		}
		with := mustRules(t, conn)
		at := slices.IndexFunc(with, func(r netwatch.Rule) bool { return !slices.Contains(before, r) })
		if at < 0 {
			t.Fatalf("%s: no rule was added", args)
		}
		rule := with[at]
		for range 2 { // the second time it is missing
			if err := conn.DeleteRule(rule); err != nil {
				t.Errorf("%s: %v", args, err)
			}
		}
		if got := mustRules(t, conn); !slices.Equal(got, before) {
			t.Fatalf("deleted %s, and there are %v", rule, got)
		}
		for range 2 { // the second time it exists already
			if err := conn.AddRule(rule); err != nil {
				t.Errorf("%s: %v", args, err)
			}
		}
		if got := mustRules(t, conn); !slices.Equal(got, with) {
			t.Fatalf("added %s, and there are %v", rule, got)
		}
		if err := conn.DeleteRule(rule); err != nil {
			t.Fatal(err)
		}
	}
	for _, rule := range []netwatch.Rule{
		{Priority: 5, Action: unix.FR_ACT_NOP, SuppressPrefix: -1, Other: true},
		{Priority: 5, Action: unix.FR_ACT_NOP, SuppressPrefix: -1, From: netip.MustParsePrefix("fe80::/64")},
	} {
		if conn.AddRule(rule) == nil || conn.DeleteRule(rule) == nil {
			t.Errorf("%+v was written", rule)
		}
	}
}

// The routes are those that the bench's ip rules, which are WSL's, lead to.
func TestRoute(t *testing.T) {
	b := labtest.New(t, lab.Options{Mode: lab.MirroredHAL})
	for _, args := range []string{
		"rule add pref 3 fwmark 0x77 lookup 77", "rule add pref 3 ipproto tcp dport 4711 lookup 78",
		"route add prohibit 198.51.100.1 table 77", "route add blackhole 198.51.100.2 table 77",
		"route add unreachable 198.51.100.3 table 77", "route add local 198.51.100.4 dev lo table 78",
	} {
		if _, err := b.WSL.Run("ip", strings.Fields(args)...); err != nil {
			t.Fatal(err)
		}
	}
	conn := open(t, b.WSL)
	loopback0, eth0 := mustLink(t, b, "loopback0").Attrs().Index, mustLink(t, b, "eth0").Attrs().Index
	addr := netip.MustParseAddr
	self, gateway, lan := addr("127.0.0.1"), addr("169.254.73.249"), addr("192.0.2.2")
	for name, test := range map[string]struct {
		q    netwatch.RouteQuery
		want netwatch.RouteAnswer
	}{
		"TCP to localhost": {netwatch.RouteQuery{Dst: self, Proto: unix.IPPROTO_TCP, Port: 80},
			netwatch.RouteAnswer{Table: 127, Type: unix.RTN_UNICAST, Oif: loopback0, Via: gateway}},
		"ping to localhost": {netwatch.RouteQuery{Dst: self, Proto: unix.IPPROTO_ICMP},
			netwatch.RouteAnswer{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Oif: 1, Src: self}},
		"TCP from Windows": {netwatch.RouteQuery{Iif: loopback0, Src: self, Dst: self, Proto: unix.IPPROTO_TCP, Port: 80},
			netwatch.RouteAnswer{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Oif: 1}},
		"to own LAN address": {netwatch.RouteQuery{Dst: lan, Proto: unix.IPPROTO_UDP},
			netwatch.RouteAnswer{Table: 128, Type: unix.RTN_UNICAST, Oif: eth0, Via: gateway}},
		"to the world": {netwatch.RouteQuery{Dst: addr("203.0.113.9")},
			netwatch.RouteAnswer{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Oif: eth0, Via: addr("192.0.2.1"), Src: lan}},
		"by port": {netwatch.RouteQuery{Dst: addr("198.51.100.4"), Proto: unix.IPPROTO_TCP, Port: 4711},
			netwatch.RouteAnswer{Table: 78, Type: unix.RTN_LOCAL, Oif: 1}},
		"prohibited": {netwatch.RouteQuery{Dst: addr("198.51.100.1"), Mark: 0x77},
			netwatch.RouteAnswer{Type: unix.RTN_UNREACHABLE, Err: unix.EACCES}},
		"blackhole": {netwatch.RouteQuery{Dst: addr("198.51.100.2"), Mark: 0x77},
			netwatch.RouteAnswer{Type: unix.RTN_UNREACHABLE, Err: unix.EINVAL}},
		"unreachable": {netwatch.RouteQuery{Dst: addr("198.51.100.3"), Mark: 0x77},
			netwatch.RouteAnswer{Type: unix.RTN_UNREACHABLE, Err: unix.EHOSTUNREACH}},
		"a martian": {netwatch.RouteQuery{Iif: eth0, Src: addr("224.0.0.1"), Dst: lan, Proto: unix.IPPROTO_TCP},
			netwatch.RouteAnswer{Type: unix.RTN_UNREACHABLE, Err: unix.EINVAL}},
	} {
		got, err := conn.Route(test.q)
		if err != nil || !errors.Is(got.Err, test.want.Err) {
			t.Errorf("%s: %v, %v; want %v", name, err, got.Err, test.want.Err)
		}
		got.Err, test.want.Err = nil, nil
		if !test.want.Src.IsValid() {
			got.Src = netip.Addr{}
		}
		if got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
	if got, err := open(t, b.LAN).Route(netwatch.RouteQuery{Dst: addr("198.51.100.9")}); err != nil || got.Type != unix.RTN_UNREACHABLE || !errors.Is(got.Err, unix.ENETUNREACH) {
		t.Errorf("without any route: %+v, %v", got, err)
	}
	// A wrong query is an error.
	for _, q := range []netwatch.RouteQuery{{}, {Dst: addr("::1")}, {Dst: self, Src: addr("::1")}, {Dst: self, Iif: 4711}, {Dst: self, Proto: 132}} {
		if got, err := conn.Route(q); err == nil {
			t.Errorf("%+v: %+v", q, got)
		}
	}
}

// The time to read many links.
func BenchmarkLinks(b *testing.B) {
	bench := labtest.New(b, lab.Options{})
	var batch strings.Builder
	for i := range 500 {
		fmt.Fprintf(&batch, "link add v%d type veth peer name w%d\n", i, i)
	}
	if _, err := bench.WSL.Run("sh", "-c", "ip -batch - <<'X'\n"+batch.String()+"X"); err != nil {
		b.Fatal(err)
	}
	var conn *netwatch.Conn
	if err := bench.WSL.Do(func() (err error) { conn, err = netwatch.Open(); return err }); err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	b.Run("here", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if links, err := conn.Links(); err != nil || len(links) < 1000 {
				b.Fatal(len(links), err)
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if links, err := bench.WSL.Net.LinkList(); err != nil || len(links) < 1000 {
				b.Fatal(len(links), err)
			}
		}
	})
}
