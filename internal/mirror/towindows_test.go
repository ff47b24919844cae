package mirror

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/conntrack"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

func tcpPorts(numbers ...uint16) ruleset.Ports {
	var list []ruleset.Port
	for _, n := range numbers {
		list = append(list, ruleset.Port{Proto: unix.IPPROTO_TCP, Number: n})
	}
	return ruleset.PortSet(list...)
}

// Which ports containers reach in Windows, through which bridges, and what changes on
// these, step by step.
func TestDecideToWindows(t *testing.T) {
	var (
		loopback0 = netwatch.Link{Name: "loopback0", Index: 2, Kind: "veth"}
		closed    = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Up: true}
		open      = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Up: true, RouteLocalnet: true}
		down      = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge"}
		joined    = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Up: true, Master: 9}
		veth      = netwatch.Link{Name: "docker0", Index: 4, Kind: "veth", Up: true}
		nic       = netwatch.Link{Name: "docker0", Index: 4, Up: true}
		marked    = []string{"docker0"}
		addrs     = []netip.Addr{netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("192.0.2.2")}
		named     = tcpPorts(1, 2, 3, 4)
		table     = nft.Spec{Index: 2, Guarded: []string{"docker0"}}.Table()
	)
	observed := func(bridge netwatch.Link, markers []string, change ...func(*Observed)) Observed {
		o := Observed{
			Links: []netwatch.Link{loopback0, bridge}, Host: loopback0, Ours: true, Table: nft.OurTable{Present: true, Owner: 1, Table: table},
			Markers: markers, Mode: netwatch.Mirrored, SourcePorts: [2]uint16{60700, 60999}, Addrs: addrs,
		}
		for _, c := range change {
			c(&o)
		}
		return o
	}
	noTable := func(o *Observed) { o.Ours, o.Table = false, nft.OurTable{} }
	noGuard := func(o *Observed) { o.Table.Table = nft.Spec{Index: 2}.Table() }
	noLink := func(o *Observed) { o.Host = netwatch.Link{Name: "loopback0"} }
	noBlock := func(o *Observed) { o.SourcePorts = [2]uint16{} }
	standby := func(o *Observed) { o.Ours, o.Table.Owner = false, 200 }
	consomme := func(o *Observed) { o.Mode = netwatch.Consomme; o.SourcePorts = [2]uint16{} }
	taken := func(o *Observed) { o.Taken = tcpPorts(2) }
	allTaken := func(o *Observed) { o.Taken = named }
	published := func(o *Observed) {
		o.Rules.EngineServed = tcpPorts(3)
		o.Rules.Published = []ruleset.Published{{Port: ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 1}}}
	}
	engines := func(o *Observed) { // they need the bridge themselves
		o.Rules.Certain, o.Rules.EngineServed = tcpPorts(3), tcpPorts(3)
		o.Rules.Published = []ruleset.Published{{Port: ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 3}, Via: ifaceOf(open), EngineServed: true}}
	}
	udp := func(o *Observed) { // the same number, but another protocol
		o.Taken = ruleset.PortSet(ruleset.Port{Proto: unix.IPPROTO_UDP, Number: 2})
	}

	tests := map[string]struct {
		o          Observed
		none       bool // no policy
		ports      ruleset.Ports
		links      []string
		open, shut []netwatch.Link
		unmark     []string
		more       bool
	}{
		"no port is named":                      {o: observed(closed, nil), none: true},
		"no port is named any more":             {o: observed(open, marked), none: true, shut: []netwatch.Link{open}, more: true},
		"the bridge is closed":                  {o: observed(closed, nil), ports: named, open: []netwatch.Link{closed}, more: true},
		"there is no table yet":                 {o: observed(closed, nil, noTable), ports: named, more: true},
		"the table does not guard it yet":       {o: observed(closed, nil, noGuard), ports: named, more: true},
		"it is open":                            {o: observed(open, marked), ports: named, links: marked},
		"it was open before us":                 {o: observed(open, nil), ports: named, links: marked},
		"it is down":                            {o: observed(down, nil), ports: named},
		"it is part of another link":            {o: observed(joined, nil), ports: named},
		"no bridge":                             {o: observed(veth, nil), ports: named},
		"a NIC":                                 {o: observed(nic, nil), ports: named},
		"Linux listens":                         {o: observed(open, marked, taken), ports: tcpPorts(1, 3, 4), links: marked},
		"Linux listens at the same UDP":         {o: observed(open, marked, udp), ports: named, links: marked},
		"Linux listens at all":                  {o: observed(open, marked, allTaken), links: marked},
		"engines publish":                       {o: observed(open, marked, published), ports: tcpPorts(2, 4), links: marked},
		"both":                                  {o: observed(open, marked, published, taken), ports: tcpPorts(4), links: marked},
		"WSL's block is not known":              {o: observed(closed, nil, noBlock)},
		"WSL's block is not known any more":     {o: observed(open, marked, noBlock), shut: []netwatch.Link{open}, more: true},
		"consomme":                              {o: observed(open, marked, consomme), ports: named, links: marked},
		"loopback0 has gone":                    {o: observed(open, marked, noLink), shut: []netwatch.Link{open}, more: true},
		"no port is named, the engine needs it": {o: observed(open, marked, engines), none: true, unmark: marked},
		"another daemon serves":                 {o: observed(closed, nil, standby)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := Policy{ToWindows: named}
			if test.none {
				p.ToWindows = nil
			}
			got := decide(test.o, p)
			if !reflect.DeepEqual(got.Open, test.open) || !reflect.DeepEqual(got.Shut, test.shut) || !reflect.DeepEqual(got.Unmark, test.unmark) || got.More != test.more {
				t.Errorf("open %+v, shut %+v, unmark %q, more %v", got.Open, got.Shut, got.Unmark, got.More)
			}
			if got.Table == nil {
				if test.ports != nil {
					t.Error("wants no table")
				}
				return
			}
			ports, at := got.Table.ToWindows()
			if !slices.Equal(ports, test.ports) || !ports.Empty() && !slices.Equal(at, addrs) {
				t.Errorf("ports %s at %v", ports, at)
			}
			var links []string
			for _, s := range got.Table.Sets {
				if s.Name == "containers" {
					for _, e := range s.Elements {
						links = append(links, unix.ByteSliceToString([]byte(e.Key)))
					}
				}
			}
			if !slices.Equal(links, test.links) {
				t.Errorf("links %q, want %q", links, test.links)
			}
		})
	}
}

// A bridge with a NIC as a port leads to another network, whose machines are not
// containers.
func TestDecideToWindowsNotFromTheLAN(t *testing.T) {
	loopback0 := netwatch.Link{Name: "loopback0", Index: 2, Kind: "veth"}
	br0 := netwatch.Link{Name: "br0", Index: 4, Kind: "bridge", Up: true, RouteLocalnet: true}
	got := decide(Observed{
		Links: []netwatch.Link{loopback0, br0, {Name: "eth1", Index: 5, Up: true, Master: 4}}, Host: loopback0, Ours: true,
		Table: nft.OurTable{Present: true, Owner: 1, Table: nft.Spec{Index: 2, Guarded: []string{"br0"}}.Table()},
		Mode:  netwatch.Mirrored, SourcePorts: [2]uint16{60700, 60999}, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2")},
	}, Policy{ToWindows: tcpPorts(11434)})
	for _, s := range got.Table.Sets {
		if s.Name == "containers" && len(s.Elements) > 0 {
			t.Errorf("machines behind eth1 reach Windows by %q", s.Elements[0].Key)
		}
	}
}

// The source ports are WSL's block, or in consomme mode the kernel's range.
func TestSourcePorts(t *testing.T) {
	block := [2]uint16{60700, 60999}
	for _, test := range []struct {
		mode        netwatch.Mode
		block, want [2]uint16
	}{
		{netwatch.Mirrored, block, block}, {netwatch.MirroredHAL, block, block}, {netwatch.Mirrored, [2]uint16{}, [2]uint16{}},
		{netwatch.Consomme, [2]uint16{}, [2]uint16{32768, 60999}},
		// A chain of WSL's that is left over from another mode.
		{netwatch.Consomme, block, [2]uint16{32768, 60999}},
	} {
		first, last := sourcePorts(Observed{Mode: test.mode, SourcePorts: test.block})
		if got := [2]uint16{first, last}; got != test.want {
			t.Errorf("%s, %v: %v, want %v", test.mode, test.block, got, test.want)
		}
	}
}

// Closed ports, own addresses, and excepted ports.
func TestDecideRefuseOwnExcept(t *testing.T) {
	var (
		link     = netwatch.Link{Name: "loopback0", Index: 7, Up: true}
		own      = []netip.Addr{netip.MustParseAddr("192.0.2.2")}
		excepted = tcpPorts(22, 80)
		base     = nft.Spec{Index: 7}
		repaired = nft.Spec{Index: 7, Repair: true}
	)
	but := func(s nft.Spec, change func(*nft.Spec)) nft.Spec {
		change(&s)
		return s
	}
	refuses := func(s *nft.Spec) { s.Refuse = true }
	all := nft.Features{Repair: true, Direct: true, Refuse: true, ToWindows: true}
	tests := map[string]struct {
		o    Observed
		p    Policy
		want nft.Spec
	}{
		"without what refuses":       {Observed{Mode: netwatch.Mirrored, Lacks: nft.Features{Refuse: true}}, Policy{Repair: true}, repaired},
		"without nft_ct":             {Observed{Mode: netwatch.Mirrored, Lacks: all, Own: own, SourcePorts: [2]uint16{60700, 60999}}, Policy{Repair: true, Direct: true, ToWindows: excepted}, base},
		"mirrored":                   {Observed{Mode: netwatch.Mirrored}, Policy{Repair: true}, but(repaired, refuses)},
		"mirrored, without repair":   {Observed{Mode: netwatch.Mirrored}, Policy{}, base},
		"consomme":                   {Observed{Mode: netwatch.Consomme}, Policy{Repair: true}, repaired},
		"hostAddressLoopback":        {Observed{Mode: netwatch.MirroredHAL, Own: own}, Policy{Repair: true}, but(repaired, func(s *nft.Spec) { s.Refuse, s.Own, s.Replies = true, own, true })},
		"the same, without repair":   {Observed{Mode: netwatch.MirroredHAL, Own: own}, Policy{}, base},
		"excepted":                   {Observed{Mode: netwatch.Mirrored}, Policy{Repair: true, Except: excepted}, but(repaired, func(s *nft.Spec) { s.Refuse, s.Except = true, excepted })},
		"excepted, without repair":   {Observed{Mode: netwatch.Mirrored}, Policy{Except: excepted}, but(base, func(s *nft.Spec) { s.Except = excepted })},
		"excepted, with path direct": {Observed{Mode: netwatch.Consomme}, Policy{Direct: true, Except: excepted}, but(base, func(s *nft.Spec) { s.Direct, s.Except = nft.Targets{}, excepted })},
	}
	for name, test := range tests {
		test.o.Host = link
		got := decide(test.o, test.p)
		if got.State != status.Active || got.Table == nil || !got.Table.Equal(test.want.Table()) {
			t.Errorf("%s: decides %+v", name, got.Table)
		}
	}
}

// No rule of ours sends an excepted port past its proxy or accepts it, and an existing rule
// is removed.
func TestDecideExcept(t *testing.T) {
	var (
		loopback0 = netwatch.Link{Name: "loopback0", Index: 2, Kind: "veth", Forwarding: true, RouteLocalnet: true}
		docker0   = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Up: true, Forwarding: true, RouteLocalnet: true}
		port      = func(n uint16) ruleset.Port { return ruleset.Port{Proto: unix.IPPROTO_TCP, Number: n} }
		rule      = func(n uint16) nft.ForeignRule { return nft.ForeignRule{Port: port(n)} }
		to        = netip.MustParseAddrPort("172.17.0.2:80")
	)
	o := Observed{
		Links: []netwatch.Link{loopback0, docker0}, Host: loopback0, Ours: true,
		Table: nft.OurTable{Present: true, Owner: 1, Table: nft.Spec{Index: 2, Guarded: []string{"docker0"}, Direct: nft.Targets{}}.Table()},
		Rules: ruleset.Analysis{Published: []ruleset.Published{
			{Port: port(1), To: to, Via: ifaceOf(docker0)}, {Port: port(2), To: to, Via: ifaceOf(docker0)},
		}},
		Foreign: nft.ForeignRules{
			Add:     []nft.ForeignRule{rule(1), rule(2)},
			Present: []nft.ForeignRule{rule(3), rule(4), rule(5), rule(6)}, Remove: []nft.ForeignRule{rule(5), rule(6)},
		},
	}
	got := decide(o, Policy{Repair: true, Direct: true, Except: tcpPorts(1, 3, 5)})
	if want := []nft.ForeignRule{rule(2)}; !reflect.DeepEqual(got.Add, want) {
		t.Errorf("adds %v", got.Add)
	}
	if want := []nft.ForeignRule{rule(5), rule(6), rule(3)}; !reflect.DeepEqual(got.Remove, want) {
		t.Errorf("removes %v", got.Remove)
	}
	if want := (nft.Targets{port(2): to}); !reflect.DeepEqual(got.Table.Targets(), want) {
		t.Errorf("sends %v past proxies", got.Table.Targets())
	}
	// The only port that needs the bridge is excepted.
	o.Markers = []string{"docker0"}
	if got := decide(o, Policy{Repair: true, Direct: true, Except: tcpPorts(1, 2)}); len(got.Shut) != 1 {
		t.Errorf("leaves a bridge open that nobody needs: %+v", got)
	}
}

// A UDP flow is reset when it leads to Windows and should not, or the reverse. This also
// holds after a crash, when the old table is unknown.
func TestEvictionsOfContainers(t *testing.T) {
	var (
		gateway = netip.MustParseAddr("172.17.0.1")
		client  = netip.MustParseAddrPort("172.17.0.2:5000")
		udp     = ruleset.PortSet(ruleset.Port{Proto: unix.IPPROTO_UDP, Number: 53})
		tcp     = tcpPorts(53)
	)
	table := func(ports ruleset.Ports) nft.Table {
		return nft.Spec{Index: 7, ToWindows: &nft.ToWindows{
			Ports: ports, Links: []string{"docker0"}, Addrs: []netip.Addr{gateway}, First: 60700, Last: 60999,
		}}.Table()
	}
	flow := func(proto uint8, dst, answers string) conntrack.Flow {
		return conntrack.Flow{
			Original: conntrack.Tuple{Src: client, Dst: netip.MustParseAddrPort(dst), Proto: proto},
			Reply:    conntrack.Tuple{Src: netip.MustParseAddrPort(answers), Dst: netip.MustParseAddrPort("127.0.0.1:60700"), Proto: proto},
		}
	}
	var (
		led       = flow(unix.IPPROTO_UDP, "172.17.0.1:53", "127.0.0.1:53")
		notLed    = flow(unix.IPPROTO_UDP, "172.17.0.1:53", "172.17.0.1:53")
		connected = flow(unix.IPPROTO_TCP, "172.17.0.1:53", "127.0.0.1:53")
		elsewhere = flow(unix.IPPROTO_UDP, "192.0.2.9:53", "192.0.2.9:53")
		none      = nft.Spec{Index: 7}.Table()
	)
	tests := map[string]struct {
		before, after nft.Table
		f             conntrack.Flow
		want          bool
	}{
		"a port comes":                         {table(nil), table(udp), notLed, true},
		"a port comes, to Windows already":     {table(nil), table(udp), led, false},
		"a port goes":                          {table(udp), table(nil), led, true},
		"a port goes, to Linux already":        {table(udp), table(nil), notLed, false},
		"nothing changes":                      {table(udp), table(udp), led, false},
		"the same port of TCP comes":           {table(nil), table(tcp), notLed, false},
		"a connection of TCP":                  {table(tcp), table(nil), connected, false},
		"to another machine":                   {table(nil), table(udp), elsewhere, false},
		"the first table":                      {nft.Table{}, table(udp), notLed, true},
		"the first table, after a crash":       {nft.Table{}, table(udp), led, false},
		"after a crash, without the port":      {nft.Table{}, table(nil), led, true},
		"after a crash, without the flag":      {nft.Table{}, none, led, true},
		"after a crash, to Linux all the time": {nft.Table{}, none, notLed, false},
		"another loopback0":                    {nft.Spec{Index: 6}.Table(), table(udp), notLed, true},
	}
	for name, test := range tests {
		match := evictions(test.before, test.after, nil)
		if got := match != nil && match(test.f); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if match := datagrams(nil, nil); !match(led) || match(notLed) || match(connected) || match(elsewhere) {
		t.Error("at the end, not exactly what leads to Windows is evicted")
	}
}
