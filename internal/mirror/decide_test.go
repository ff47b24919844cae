package mirror

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

func TestDecide(t *testing.T) {
	var (
		absent = netwatch.Link{Name: "loopback0"}
		up     = netwatch.Link{Name: "loopback0", Index: 7, Up: true}
		down   = netwatch.Link{Name: "loopback0", Index: 7}
		none   = nft.OurTable{}
		ours   = nft.OurTable{Present: true, Owner: 100, Table: (nft.Spec{Index: 7}).Table()}
		stale  = nft.OurTable{Present: true, Owner: 100, Table: (nft.Spec{Index: 6}).Table()}
		theirs = nft.OurTable{Present: true, Owner: 200, Table: (nft.Spec{Index: 7}).Table()}
		nobody = nft.OurTable{Present: true, Table: (nft.Spec{Index: 7}).Table()}
	)
	tests := map[string]struct {
		link  netwatch.Link
		table nft.OurTable
		ours  bool
		state status.State
		index int // of the link in the table; 0: no table
	}{
		"no link":                            {absent, none, false, status.Waiting, 0},
		"link comes":                         {up, none, false, status.Active, 7},
		"link is down":                       {down, none, false, status.Active, 7},
		"nothing to change":                  {up, ours, true, status.Active, 7},
		"link came back with another index":  {up, stale, true, status.Active, 7},
		"link went":                          {absent, ours, true, status.Waiting, 0},
		"another daemon serves":              {up, theirs, false, status.Standby, 0},
		"another daemon serves, link went":   {absent, theirs, false, status.Standby, 0},
		"a table of our name without owner":  {up, nobody, false, status.Active, 7},
		"a table without owner, and no link": {absent, nobody, false, status.Waiting, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o := Observed{Host: test.link, Table: test.table, Ours: test.ours}
			got := decide(o, Policy{Repair: true})
			if got.State != test.state {
				t.Errorf("state %q, want %q", got.State, test.state)
			}
			switch {
			case test.index == 0 && got.Table != nil:
				t.Error("wants a table")
			case test.index != 0 && (got.Table == nil || !got.Table.SameLink((nft.Spec{Index: test.index, Repair: true}).Table())):
				t.Errorf("table is not the one for link %d", test.index)
			}

			// After the answer has been carried out, it stays the same.
			if got.Table != nil {
				o.Table, o.Ours = nft.OurTable{Present: true, Owner: 100, Table: *got.Table}, true
			} else if o.Ours {
				o.Table, o.Ours = nft.OurTable{}, false
			}
			if again := decide(o, Policy{Repair: true}); again.State != got.State {
				t.Errorf("then decides %q", again.State)
			}
		})
	}
}

// Everything beside the table follows the same election.
func TestDecideRepair(t *testing.T) {
	var (
		link    = netwatch.Link{Name: "loopback0", Index: 7, Up: true}
		missing = []nft.ForeignRule{{Port: ruleset.Port{Number: 1}}}
		surplus = []nft.ForeignRule{{Port: ruleset.Port{Number: 2}}}
		ours    = []nft.ForeignRule{{Port: ruleset.Port{Number: 2}}, {Port: ruleset.Port{Number: 3}}}
		kernel  = ruleset.PortSet(ruleset.Port{Proto: 6, Number: 8080})
		view    = ruleset.Analysis{EngineServed: kernel}
		foreign = nft.ForeignRules{Add: missing, Remove: surplus, Present: ours}
		theirs  = nft.OurTable{Present: true, Owner: 200}
	)
	tests := map[string]struct {
		o           Observed
		repair      bool
		returns     bool
		add, remove []nft.ForeignRule
	}{
		"active":                     {Observed{Host: link, Rules: view, Foreign: foreign}, true, true, missing, surplus},
		"active, without repair":     {Observed{Host: link, Rules: view, Foreign: foreign, ReplyRule: true}, false, false, nil, ours},
		"waiting, after a crash":     {Observed{Rules: view, Foreign: foreign, ReplyRule: true}, true, false, nil, ours},
		"standby, theirs is there":   {Observed{Host: link, Rules: view, Foreign: foreign, Table: theirs, ReplyRule: true}, true, true, nil, nil},
		"standby, theirs is not yet": {Observed{Host: link, Rules: view, Foreign: foreign, Table: theirs}, true, false, nil, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := decide(test.o, Policy{Repair: test.repair})
			if got.ReplyRule != test.returns || !reflect.DeepEqual(got.Add, test.add) || !reflect.DeepEqual(got.Remove, test.remove) {
				t.Errorf("decides %+v", got)
			}
			if got.Table != nil && !got.Table.Equal((nft.Spec{Index: 7, EngineServed: kernel, Repair: test.repair, Replies: test.repair}).Table()) {
				t.Errorf("wants the table %+v", got.Table)
			}
		})
	}
}

func TestGuarded(t *testing.T) {
	loopback0 := netwatch.Link{Name: "loopback0", Index: 2, Kind: "veth", RouteLocalnet: true}
	links := []netwatch.Link{
		{Name: "lo", Index: 1},
		loopback0,
		{Name: "eth0", Index: 3, RouteLocalnet: true}, // WSL's own
		{Name: "docker0", Index: 4, Kind: "bridge"},
		{Name: "podman0", Index: 5, Kind: "bridge", RouteLocalnet: true},
		{Name: "veth1234", Index: 6, Kind: "veth"},
		{Name: "veth5678", Index: 8, Kind: "veth", Master: 4},
		{Name: "wg0", Index: 7, Kind: "wireguard", RouteLocalnet: true},
	}
	got := guarded(Observed{Links: links, Host: loopback0})
	if want := []string{"docker0", "podman0", "veth1234"}; !reflect.DeepEqual(got, want) {
		t.Errorf("guards %q, want %q", got, want)
	}
}

// Replies are marked while there can be some, even in the moment in which an engine has no
// rules. With the proxy path, servers in Linux do not pay for a mark that is not needed.
func TestDecideReplies(t *testing.T) {
	var (
		loopback0 = netwatch.Link{Name: "loopback0", Index: 2, Kind: "veth", Forwarding: true, RouteLocalnet: true}
		eth0      = netwatch.Link{Name: "eth0", Index: 3, RouteLocalnet: true}
		closed    = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Forwarding: true}
		open      = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Forwarding: true, RouteLocalnet: true}
		proxied   = ruleset.Analysis{Published: []ruleset.Published{{
			Port: ruleset.Port{Proto: 6, Number: 8080}, To: netip.MustParseAddrPort("172.17.0.2:80"), Via: ruleset.Iface{Name: "docker0", Index: 4},
		}}}
		kernel = ruleset.Analysis{EngineServed: ruleset.PortSet(ruleset.Port{Proto: 6, Number: 8080})}
	)
	tests := map[string]struct {
		docker0 netwatch.Link
		view    ruleset.Analysis
		policy  Policy
		want    bool
	}{
		"nothing is published":              {closed, ruleset.Analysis{}, Policy{Repair: true}, false},
		"a proxy":                           {closed, proxied, Policy{Repair: true}, false},
		"the kernel":                        {closed, kernel, Policy{Repair: true}, true},
		"the kernel, no rule at the moment": {open, ruleset.Analysis{}, Policy{Repair: true}, true},
		"the kernel, without repair":        {open, kernel, Policy{}, false},
		"the path is direct":                {closed, ruleset.Analysis{}, Policy{Repair: true, Direct: true}, true},
	}
	for name, test := range tests {
		got := decide(Observed{Links: []netwatch.Link{loopback0, eth0, test.docker0}, Host: loopback0, Rules: test.view}, test.policy)
		marks := slices.ContainsFunc(got.Table.Chains, func(c ruleset.Chain) bool { return c.Name == "flowmark" })
		if marks != test.want {
			t.Errorf("%s: %v, want %v", name, marks, test.want)
		}
	}
}

// Which packets go past the proxy, and what that needs of the bridges, step by step.
func TestDecideDirect(t *testing.T) {
	var (
		loopback0 = netwatch.Link{Name: "loopback0", Index: 2, Kind: "veth", Forwarding: true, RouteLocalnet: true}
		closed    = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Up: true, Forwarding: true}
		open      = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Up: true, Forwarding: true, RouteLocalnet: true}
		stays     = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Up: true, RouteLocalnet: true} // it forwards nothing that arrives
		docker0   = ruleset.Iface{Name: "docker0", Index: 4}
		old       = ruleset.Iface{Name: "docker0", Index: 3} // the ruleset was walked before docker0 came back
		port      = ruleset.Port{Proto: 6, Number: 8080}
		to        = netip.MustParseAddrPort("172.17.0.2:80")
		proxied   = ruleset.Published{Port: port, To: to, Via: docker0}
		engine    = ruleset.Published{Port: port, To: to, Via: docker0, EngineServed: true}
		stopped   = ruleset.Published{Port: port, To: to, Via: docker0, Obstacle: ruleset.NotForwarded}
		moved     = ruleset.Published{Port: port, To: to, Via: old}
		marked    = []string{"docker0"}
		bridges   = []netwatch.Link{open}
		table     = nft.Spec{Index: 2, Guarded: []string{"docker0"}, Direct: nft.Targets{port: to}}.Table()
	)
	observed := func(bridge netwatch.Link, markers []string, ports ...ruleset.Published) Observed {
		return Observed{
			Links: []netwatch.Link{loopback0, bridge}, Host: loopback0, Ours: true, Table: nft.OurTable{Present: true, Owner: 1, Table: table},
			Rules: ruleset.Analysis{Published: ports}, Markers: markers,
		}
	}
	but := func(o Observed, change func(*Observed)) Observed {
		change(&o)
		return o
	}
	noLink := func(o *Observed) { o.Host = netwatch.Link{Name: "loopback0"} }
	noForwarding := func(o *Observed) { o.Host.Forwarding = false }
	noTable := func(o *Observed) { o.Ours, o.Table = false, nft.OurTable{} }
	noGuard := func(o *Observed) { o.Table.Table = nft.Spec{Index: 2}.Table() }
	standby := func(o *Observed) { o.Ours, o.Table.Owner = false, 200 }
	certain := func(o *Observed) { o.Rules.Certain = ruleset.PortSet(port) }

	tests := map[string]struct {
		o          Observed
		path       string
		direct     bool // the port is in the map
		open, shut []netwatch.Link
		exposed    []netwatch.Link
		unmark     []string
		more       bool
	}{
		"nothing is published":                       {o: observed(closed, nil)},
		"a port, and the bridge is shut":             {o: observed(closed, nil, proxied), open: []netwatch.Link{closed}, more: true},
		"two ports open the bridge once":             {o: observed(closed, nil, proxied, proxied), open: []netwatch.Link{closed}, more: true},
		"there is no table yet":                      {o: but(observed(closed, nil, proxied), noTable), more: true},
		"the table does not guard the bridge yet":    {o: but(observed(closed, nil, proxied), noGuard), more: true},
		"somebody has shut it":                       {o: observed(closed, marked, proxied), open: []netwatch.Link{closed}, more: true},
		"it is open":                                 {o: observed(open, marked, proxied), direct: true, exposed: bridges},
		"it was open before us":                      {o: observed(open, nil, proxied), direct: true},
		"it is open, and the table has gone":         {o: but(observed(open, marked, proxied), noTable), direct: true, exposed: bridges},
		"it is open, and nothing guards it":          {o: but(observed(open, marked, proxied), noGuard), direct: true, exposed: bridges},
		"the port has gone":                          {o: observed(open, marked), shut: bridges, more: true},
		"the port has gone, it was open before us":   {o: observed(open, nil)},
		"somebody has shut it, and the port went":    {o: observed(closed, marked), unmark: marked},
		"the bridge has gone":                        {o: observed(netwatch.Link{Name: "br0", Index: 9}, marked), unmark: marked},
		"the bridge is another one":                  {o: observed(closed, nil, moved)},
		"rules stop what is forwarded":               {o: observed(closed, nil, stopped)},
		"rules stop it from now on":                  {o: observed(open, marked, stopped), shut: bridges, more: true},
		"nothing is forwarded":                       {o: but(observed(open, marked, proxied), noForwarding), shut: bridges, more: true},
		"nothing is forwarded from the bridge":       {o: observed(stays, marked, proxied), shut: []netwatch.Link{stays}, more: true},
		"the engine serves it":                       {o: observed(open, nil, engine)},
		"the engine needs the bridge itself by now":  {o: but(observed(open, marked, engine), certain), unmark: marked},
		"the engine may serve it":                    {o: observed(open, marked, engine), shut: bridges, more: true},
		"the path is proxy":                          {o: observed(closed, nil, proxied), path: "proxy"},
		"the path is proxy, after a crash":           {o: observed(open, marked, proxied), path: "proxy", shut: bridges, more: true},
		"loopback0 has gone":                         {o: but(observed(open, marked, proxied), noLink), shut: bridges, more: true},
		"loopback0 has gone, and the bridge is shut": {o: but(observed(closed, nil, proxied), noLink)},
		"another daemon serves":                      {o: but(observed(closed, nil), standby)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := decide(test.o, Policy{Repair: true, Direct: test.path != "proxy"})
			if !reflect.DeepEqual(got.Open, test.open) || !reflect.DeepEqual(got.Shut, test.shut) || !reflect.DeepEqual(got.Unmark, test.unmark) {
				t.Errorf("open %+v, shut %+v, unmark %q", got.Open, got.Shut, got.Unmark)
			}
			if !reflect.DeepEqual(got.Exposed, test.exposed) {
				t.Errorf("exposed %+v", got.Exposed)
			}
			if got.More != test.more {
				t.Errorf("more: %v", got.More)
			}
			if got.Table == nil {
				if test.direct {
					t.Error("wants no table")
				}
				return
			}
			if (got.Table.Targets()[port] == to) != test.direct {
				t.Errorf("in the map: %v", got.Table.Targets())
			}
		})
	}
}

// For any observation and any policy, a pass settles within its rounds. At no step is there
// a bridge that we have opened and that our table does not guard, except one that was so
// before.
func TestDecideComesToRest(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	maybe := func() bool { return r.IntN(2) == 0 }
	for range 20_000 {
		loopback0 := netwatch.Link{Name: "loopback0", Index: 2, Kind: "veth", Forwarding: true}
		o := Observed{Host: loopback0, Links: []netwatch.Link{loopback0}}
		if r.IntN(4) == 0 {
			o.Host, o.Links = netwatch.Link{Name: "loopback0"}, nil
		}
		var guarded []string
		for i, name := range []string{"br0", "br1"} {
			l := netwatch.Link{Name: name, Index: 4 + i, Kind: "bridge", Up: true, Forwarding: true, RouteLocalnet: maybe()}
			o.Links = append(o.Links, l)
			if maybe() {
				o.Markers = append(o.Markers, name)
			}
			if maybe() {
				guarded = append(guarded, name)
			}
			port := ruleset.Port{Proto: 6, Number: uint16(8080 + i)}
			if p := (ruleset.Published{Port: port, To: netip.MustParseAddrPort("172.17.0.2:80"), Via: ifaceOf(l)}); maybe() {
				if p.EngineServed = maybe(); p.EngineServed {
					o.Rules.EngineServed = o.Rules.EngineServed.Union(ruleset.PortSet(port))
					if maybe() {
						o.Rules.Certain = o.Rules.EngineServed
					}
				}
				o.Rules.Published = append(o.Rules.Published, p)
			}
		}
		if maybe() {
			o.Ours = true
			o.Table = nft.OurTable{Present: true, Owner: 1, Table: nft.Spec{Index: 2, Guarded: guarded}.Table()}
		}
		p := Policy{Repair: maybe(), Direct: maybe()}
		if maybe() {
			p.ToWindows = ruleset.PortSet(ruleset.Port{Proto: 6, Number: 8080}, ruleset.Port{Proto: 6, Number: 11434})
			o.Addrs = []netip.Addr{netip.MustParseAddr("172.17.0.1")}
		}
		if maybe() {
			p.Except = ruleset.PortSet(ruleset.Port{Proto: 6, Number: 8081})
		}
		if o.Mode = []netwatch.Mode{netwatch.Mirrored, netwatch.Consomme}[r.IntN(2)]; maybe() {
			o.Lacks = nft.Features{Repair: maybe(), Direct: maybe(), Refuse: maybe(), ToWindows: maybe()}
			o.SourcePorts = [2]uint16{60700, 60999}
		}
		exposed := func() (list []string) {
			for _, l := range o.Links {
				if l.RouteLocalnet && slices.Contains(o.Markers, l.Name) && !(o.Ours && o.Table.Guards(l.Name)) {
					list = append(list, l.Name)
				}
			}
			return list
		}
		before := exposed()
		var d Desired
		for round := 0; ; round++ {
			if d = decide(o, p); round == rounds {
				t.Fatalf("does not come to rest: %+v for %+v", d, o)
			}
			carryOut(&o, d)
			if now := exposed(); !p.Direct && p.ToWindows.Empty() && len(now) > 0 || slices.ContainsFunc(now, func(n string) bool { return !slices.Contains(before, n) }) {
				t.Fatalf("%q open without a guard after %+v", now, d)
			}
			if !d.More {
				break
			}
		}
		again := decide(o, p)
		if again.More || len(again.Open)+len(again.Shut)+len(again.Unmark) > 0 || again.ReplyRule != o.ReplyRule || again.Table != nil && !again.Table.Equal(o.Table.Table) {
			t.Fatalf("at rest, then decides %+v for %+v", again, o)
		}
	}
}

// carryOut changes o to what is observed after d has been carried out.
func carryOut(o *Observed, d Desired) {
	set := func(links []netwatch.Link, on bool) {
		for _, l := range links {
			at := slices.IndexFunc(o.Links, func(m netwatch.Link) bool { return m.Index == l.Index })
			o.Links[at].RouteLocalnet = on
			o.Markers = slices.DeleteFunc(slices.Clone(o.Markers), func(n string) bool { return n == l.Name })
			if on {
				o.Markers = append(o.Markers, l.Name)
			}
		}
	}
	o.Links = slices.Clone(o.Links)
	set(d.Shut, false)
	o.Ours, o.Table = d.Table != nil, nft.OurTable{}
	if d.Table != nil {
		o.Table = nft.OurTable{Present: true, Owner: 1, Table: *d.Table}
	}
	set(d.Open, true)
	o.Markers = slices.DeleteFunc(slices.Clone(o.Markers), func(n string) bool { return slices.Contains(d.Unmark, n) })
	o.ReplyRule = d.ReplyRule
}
