package mirror

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/conntrack"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// Connections are walked only when some of them may now lead nowhere.
func TestEvictions(t *testing.T) {
	one, two := ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 1}, ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 2}
	a, b := netip.MustParseAddrPort("172.17.0.2:80"), netip.MustParseAddrPort("172.17.0.3:80")
	served := ruleset.PortSet(one)
	spec := func(s nft.Spec) nft.Table {
		s.Index = 7
		return s.Table()
	}
	tests := map[string]struct {
		before, after nft.Table
		want          bool
		freed         bool // the flow to port one, kept from its engine, is evicted
	}{
		"the first table":        {nft.Table{}, spec(nft.Spec{}), true, false},
		"another link":           {nft.Spec{Index: 6}.Table(), spec(nft.Spec{}), true, false},
		"nothing changes":        {spec(nft.Spec{EngineServed: served, Direct: nft.Targets{two: a}}), spec(nft.Spec{EngineServed: served, Direct: nft.Targets{two: a}}), false, false},
		"a port comes":           {spec(nft.Spec{Direct: nft.Targets{one: a}}), spec(nft.Spec{Direct: nft.Targets{one: a, two: b}}), false, false},
		"a port goes":            {spec(nft.Spec{Direct: nft.Targets{one: a, two: b}}), spec(nft.Spec{Direct: nft.Targets{one: a}}), true, false},
		"a port moves":           {spec(nft.Spec{Direct: nft.Targets{one: a}}), spec(nft.Spec{Direct: nft.Targets{one: b}}), true, false},
		"an engine serves more":  {spec(nft.Spec{}), spec(nft.Spec{EngineServed: served}), true, true},
		"an engine serves fewer": {spec(nft.Spec{EngineServed: served}), spec(nft.Spec{}), true, false},
	}
	self := netip.MustParseAddr("127.0.0.1")
	kept := conntrack.Flow{
		Original: conntrack.Tuple{Src: netip.AddrPortFrom(self, 40000), Dst: netip.AddrPortFrom(self, 1), Proto: unix.IPPROTO_TCP},
		Reply:    conntrack.Tuple{Src: netip.AddrPortFrom(self, 1), Dst: netip.AddrPortFrom(self, 40000), Proto: unix.IPPROTO_TCP},
		Replied:  true,
	}
	for name, test := range tests {
		match := evictions(test.before, test.after, nil)
		if (match != nil) != test.want || match != nil && match(kept) != test.freed {
			t.Errorf("%s: looked through is %v", name, match != nil)
		}
	}
}

func TestMisdirected(t *testing.T) {
	tcp := func(n uint16) ruleset.Port { return ruleset.Port{Proto: unix.IPPROTO_TCP, Number: n} }
	nine := ruleset.PortSet(tcp(9000))
	container := netip.MustParseAddrPort("172.17.0.2:80")
	m := misdirected{
		served: nine, wasServed: ruleset.PortSet(tcp(6000)), freed: nine,
		targets: nft.Targets{tcp(7000): container}, containers: nft.Targets{tcp(8080): container, {Proto: unix.IPPROTO_UDP, Number: 7000}: container},
	}
	tests := map[string]struct {
		src, dst, answers string
		masqueraded       bool
		proto             uint8
		port              uint16
		want              bool
	}{
		"to a container":              {"127.0.0.1", "127.0.0.1", "172.17.0.2", false, unix.IPPROTO_TCP, 8080, true},
		"to a container, masqueraded": {"127.0.0.1", "127.0.0.1", "172.17.0.2", true, unix.IPPROTO_TCP, 8080, true},

		"to where somebody's rule sends it":  {"127.0.0.1", "127.0.0.1", "192.168.77.1", true, unix.IPPROTO_TCP, 3306, false},
		"an engine's that it serves no more": {"127.0.0.1", "127.0.0.1", "172.17.0.9", true, unix.IPPROTO_TCP, 6000, true},
		"to another loopback":                {"127.0.0.1", "127.0.0.1", "127.0.0.53", false, unix.IPPROTO_UDP, 53, false},
		"to where it was sent":               {"127.0.0.1", "127.0.0.1", "127.0.0.1", false, unix.IPPROTO_TCP, 8080, false},
		"to a container, by the kernel":      {"127.0.0.1", "127.0.0.1", "172.17.0.2", true, unix.IPPROTO_TCP, 9000, false},
		"by the kernel, and not answerable":  {"127.0.0.1", "127.0.0.1", "172.17.0.2", false, unix.IPPROTO_TCP, 9000, true},
		"kept from the kernel":               {"127.0.0.1", "127.0.0.1", "127.0.0.1", false, unix.IPPROTO_TCP, 9000, true},
		"the same port of another protocol":  {"127.0.0.1", "127.0.0.1", "127.0.0.1", false, unix.IPPROTO_UDP, 9000, false},
		"neither TCP nor UDP":                {"127.0.0.1", "127.0.0.1", "172.17.0.2", false, unix.IPPROTO_SCTP, 8080, false},
		"from the LAN":                       {"192.0.2.1", "192.0.2.2", "172.17.0.2", false, unix.IPPROTO_TCP, 8080, false},
		"from the LAN to us":                 {"192.0.2.1", "127.0.0.1", "172.17.0.2", false, unix.IPPROTO_TCP, 8080, false},
		"from us to a neighbour":             {"127.0.0.1", "192.0.2.1", "192.0.2.1", false, unix.IPPROTO_TCP, 8080, false},
		"direct":                             {"127.0.0.1", "127.0.0.1", "172.17.0.2", true, unix.IPPROTO_TCP, 7000, false},
		"direct, and not answerable":         {"127.0.0.1", "127.0.0.1", "172.17.0.2", false, unix.IPPROTO_TCP, 7000, true},
		"direct, to where it was":            {"127.0.0.1", "127.0.0.1", "172.17.0.3", true, unix.IPPROTO_TCP, 7000, true},
		"direct, of another protocol":        {"127.0.0.1", "127.0.0.1", "172.17.0.2", true, unix.IPPROTO_UDP, 7000, true},
		"through the proxy, direct by now":   {"127.0.0.1", "127.0.0.1", "127.0.0.1", false, unix.IPPROTO_TCP, 7000, false},
	}
	for name, test := range tests {
		src, dst, answers := netip.MustParseAddr(test.src), netip.MustParseAddr(test.dst), netip.MustParseAddr(test.answers)
		f := conntrack.Flow{
			Original: conntrack.Tuple{Src: netip.AddrPortFrom(src, 40000), Dst: netip.AddrPortFrom(dst, test.port), Proto: test.proto},
			Reply:    conntrack.Tuple{Src: netip.AddrPortFrom(answers, 80), Dst: netip.AddrPortFrom(src, 40000), Proto: test.proto},
		}
		if test.masqueraded {
			f.Reply.Dst = netip.MustParseAddrPort("172.17.0.1:40000")
		}
		if got := m.has(f); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A flow from Linux to its own address that began without a table has no mark, so its
// replies get lost. It is reset when there is a table. A flow with the mark continues.
func TestEvictionsAfresh(t *testing.T) {
	own := netip.MustParseAddr("192.0.2.2")
	flow := func(from, to, answers string, mark uint32) conntrack.Flow {
		src := netip.AddrPortFrom(netip.MustParseAddr(from), 40000)
		return conntrack.Flow{
			Original: conntrack.Tuple{Src: src, Dst: netip.AddrPortFrom(netip.MustParseAddr(to), 8080), Proto: unix.IPPROTO_TCP},
			Reply:    conntrack.Tuple{Src: netip.MustParseAddrPort(answers), Dst: src, Proto: unix.IPPROTO_TCP},
			Mark:     mark,
			Replied:  true,
		}
	}
	first := nft.Spec{Index: 7, Repair: true, Own: []netip.Addr{own}}
	established := func(f conntrack.Flow) conntrack.Flow {
		f.Assured = true
		return f
	}
	unanswered := func(f conntrack.Flow) conntrack.Flow {
		f.Replied = false
		return f
	}
	serving := first
	serving.EngineServed = ruleset.PortSet(ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 9180})
	excepting := first
	excepting.Except = ruleset.PortSet(ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 8080})
	for name, test := range map[string]struct {
		before nft.Table
		after  nft.Spec
		f      conntrack.Flow
		want   bool
	}{
		"without the mark":          {nft.Table{}, first, flow("192.0.2.2", "192.0.2.2", "172.17.0.2:80", 0), true},
		"established":               {nft.Table{}, first, established(flow("192.0.2.2", "192.0.2.2", "172.17.0.2:80", 0)), false},
		"when a port is served":     {first.Table(), serving, flow("192.0.2.2", "192.0.2.2", "172.17.0.2:80", 0), false},
		"an unanswered SYN":         {nft.Table{}, first, unanswered(flow("127.0.0.1", "127.0.0.1", "127.0.0.1:8080", 0)), true},
		"an answered one":           {nft.Table{}, first, flow("127.0.0.1", "127.0.0.1", "127.0.0.1:8080", 0), false},
		"one to elsewhere":          {nft.Table{}, first, unanswered(flow("127.0.0.1", "192.0.2.1", "192.0.2.1:8080", 0)), false},
		"one that met the table":    {first.Table(), first, unanswered(flow("127.0.0.1", "127.0.0.1", "127.0.0.1:8080", 0)), false},
		"with a mark of others":     {nft.Table{}, first, flow("192.0.2.2", "192.0.2.2", "172.17.0.2:80", 1), true},
		"with the mark":             {nft.Table{}, first, flow("192.0.2.2", "192.0.2.2", "172.17.0.2:80", nft.Mark|1), false},
		"to a server of Linux":      {nft.Table{}, first, flow("192.0.2.2", "192.0.2.2", "192.0.2.2:8080", 0), false},
		"from the LAN":              {nft.Table{}, first, flow("192.0.2.1", "192.0.2.2", "172.17.0.2:80", 0), false},
		"to the LAN":                {nft.Table{}, first, flow("192.0.2.2", "192.0.2.1", "192.0.2.9:80", 0), false},
		"to a port left alone":      {nft.Table{}, excepting, flow("192.0.2.2", "192.0.2.2", "172.17.0.2:80", 0), false},
		"without such an address":   {nft.Table{}, nft.Spec{Index: 7, Repair: true}, flow("192.0.2.2", "192.0.2.2", "172.17.0.2:80", 0), false},
		"when there was a table":    {first.Table(), first, flow("192.0.2.2", "192.0.2.2", "172.17.0.2:80", 0), false},
		"when loopback0 is another": {nft.Spec{Index: 6}.Table(), first, flow("192.0.2.2", "192.0.2.2", "172.17.0.2:80", 0), true},
	} {
		match := evictions(test.before, test.after.Table(), nil)
		if got := match != nil && match(test.f); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
