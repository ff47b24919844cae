package mirror

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
)

func TestDecide(t *testing.T) {
	var (
		absent = netwatch.Link{Name: "loopback0"}
		up     = netwatch.Link{Name: "loopback0", Index: 7, Up: true}
		down   = netwatch.Link{Name: "loopback0", Index: 7}
		none   = nft.State{}
		ours   = nft.State{Present: true, Owner: 100, Table: (nft.Spec{Index: 7}).Table()}
		stale  = nft.State{Present: true, Owner: 100, Table: (nft.Spec{Index: 6}).Table()}
		theirs = nft.State{Present: true, Owner: 200, Table: (nft.Spec{Index: 7}).Table()}
		nobody = nft.State{Present: true, Table: (nft.Spec{Index: 7}).Table()}
	)
	tests := map[string]struct {
		link  netwatch.Link
		table nft.State
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
			o := Observed{Link: test.link, Kernel: test.table, Ours: test.ours}
			got := decide(o, Policy{Repair: true})
			if got.State != test.state {
				t.Errorf("state %q, want %q", got.State, test.state)
			}
			switch {
			case test.index == 0 && got.Table != nil:
				t.Error("wants a table")
			case test.index != 0 && (got.Table == nil || got.Table.Index != test.index):
				t.Errorf("table is not the one for link %d", test.index)
			}

			// Once carried out, the answer stays the same.
			if got.Table != nil {
				o.Kernel, o.Ours = nft.State{Present: true, Owner: 100, Table: got.Table.Table()}, true
			} else if o.Ours {
				o.Kernel, o.Ours = nft.State{}, false
			}
			if again := decide(o, Policy{Repair: true}); again.State != got.State {
				t.Errorf("then decides %q", again.State)
			}
		})
	}
}

// What there is beside the table follows the same election.
func TestDecideRepair(t *testing.T) {
	var (
		link    = netwatch.Link{Name: "loopback0", Index: 7, Up: true}
		missing = []nft.Accept{{Port: nft.Port{Number: 1}}}
		surplus = []nft.Accept{{Port: nft.Port{Number: 2}}}
		ours    = []nft.Accept{{Port: nft.Port{Number: 2}}, {Port: nft.Port{Number: 3}}}
		kernel  = nft.PortSet(nft.Port{Proto: 6, Number: 8080})
		view    = nft.View{Kernel: kernel, Missing: missing, Surplus: surplus, Accepts: ours}
		theirs  = nft.State{Present: true, Owner: 200}
	)
	tests := map[string]struct {
		o           Observed
		repair      bool
		returns     bool
		add, remove []nft.Accept
	}{
		"active":                     {Observed{Link: link, View: view}, true, true, missing, surplus},
		"active, without repair":     {Observed{Link: link, View: view, Returns: true}, false, false, nil, ours},
		"waiting, after a crash":     {Observed{View: view, Returns: true}, true, false, nil, ours},
		"standby, theirs is there":   {Observed{Link: link, View: view, Kernel: theirs, Returns: true}, true, true, nil, nil},
		"standby, theirs is not yet": {Observed{Link: link, View: view, Kernel: theirs}, true, false, nil, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := decide(test.o, Policy{Repair: test.repair})
			if got.Returns != test.returns || !reflect.DeepEqual(got.Add, test.add) || !reflect.DeepEqual(got.Remove, test.remove) {
				t.Errorf("decides %+v", got)
			}
			if got.Table != nil && (got.Table.Repair != test.repair || !reflect.DeepEqual(got.Table.Kernel, kernel)) {
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
	got := guarded(Observed{Links: links, Link: loopback0})
	if want := []string{"docker0", "podman0", "veth1234"}; !reflect.DeepEqual(got, want) {
		t.Errorf("guards %q, want %q", got, want)
	}
}

// Replies are marked while there can be some, also while an engine has no rules for a
// moment. With the path proxy, servers of Linux do not pay for a mark that nobody needs.
func TestDecideReplies(t *testing.T) {
	var (
		loopback0 = netwatch.Link{Name: "loopback0", Index: 2, Kind: "veth", Forwarding: true, RouteLocalnet: true}
		eth0      = netwatch.Link{Name: "eth0", Index: 3, RouteLocalnet: true}
		closed    = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Forwarding: true}
		open      = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Forwarding: true, RouteLocalnet: true}
		proxied   = nft.View{Published: []nft.Published{{
			Port: nft.Port{Proto: 6, Number: 8080}, To: netip.MustParseAddrPort("172.17.0.2:80"), Via: nft.Iface{Name: "docker0", Index: 4},
		}}}
		kernel = nft.View{Kernel: nft.PortSet(nft.Port{Proto: 6, Number: 8080})}
	)
	tests := map[string]struct {
		docker0 netwatch.Link
		view    nft.View
		policy  Policy
		want    bool
	}{
		"nothing is published":              {closed, nft.View{}, Policy{Repair: true}, false},
		"a proxy":                           {closed, proxied, Policy{Repair: true}, false},
		"the kernel":                        {closed, kernel, Policy{Repair: true}, true},
		"the kernel, no rule at the moment": {open, nft.View{}, Policy{Repair: true}, true},
		"the kernel, without repair":        {open, kernel, Policy{}, false},
		"the path is direct":                {closed, nft.View{}, Policy{Repair: true, Direct: true}, true},
	}
	for name, test := range tests {
		got := decide(Observed{Links: []netwatch.Link{loopback0, eth0, test.docker0}, Link: loopback0, View: test.view}, test.policy)
		if got.Table.Replies != test.want {
			t.Errorf("%s: %v, want %v", name, got.Table.Replies, test.want)
		}
	}
}

// What goes past the proxy, and what that needs of the bridges, step by step.
func TestDecideDirect(t *testing.T) {
	var (
		loopback0 = netwatch.Link{Name: "loopback0", Index: 2, Kind: "veth", Forwarding: true, RouteLocalnet: true}
		closed    = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Up: true, Forwarding: true}
		open      = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Up: true, Forwarding: true, RouteLocalnet: true}
		stays     = netwatch.Link{Name: "docker0", Index: 4, Kind: "bridge", Up: true, RouteLocalnet: true} // what comes in by it
		docker0   = nft.Iface{Name: "docker0", Index: 4}
		old       = nft.Iface{Name: "docker0", Index: 3} // the ruleset was walked before docker0 came back
		port      = nft.Port{Proto: 6, Number: 8080}
		to        = netip.MustParseAddrPort("172.17.0.2:80")
		proxied   = nft.Published{Port: port, To: to, Via: docker0}
		kernel    = nft.Published{Port: port, To: to, Via: docker0, Kernel: true}
		stopped   = nft.Published{Port: port, To: to, Via: docker0, Obstacle: nft.NotForwarded}
		moved     = nft.Published{Port: port, To: to, Via: old}
		theirs    = nft.State{Present: true, Owner: 200}
		marked    = []string{"docker0"}
		bridges   = []netwatch.Link{open}
	)
	observed := func(bridge netwatch.Link, marked []string, ports ...nft.Published) Observed {
		return Observed{Links: []netwatch.Link{loopback0, bridge}, Link: loopback0, View: nft.View{Published: ports}, Marked: marked}
	}
	noLink := observed(open, marked, proxied)
	noLink.Link = netwatch.Link{Name: "loopback0"}
	noForwarding := observed(open, marked, proxied)
	noForwarding.Link.Forwarding = false
	standby := observed(open, marked)
	standby.Kernel = theirs

	tests := map[string]struct {
		o          Observed
		path       string
		direct     bool // the port is in the map
		open, shut []netwatch.Link
		unmark     []string
	}{
		"nothing is published":                      {o: observed(closed, nil)},
		"a port, and the bridge is shut":            {o: observed(closed, nil, proxied), open: []netwatch.Link{closed}},
		"two ports open the bridge once":            {o: observed(closed, nil, proxied, proxied), open: []netwatch.Link{closed}},
		"somebody has shut it":                      {o: observed(closed, marked, proxied), open: []netwatch.Link{closed}},
		"it is open":                                {o: observed(open, marked, proxied), direct: true},
		"it was open before us":                     {o: observed(open, nil, proxied), direct: true},
		"the port has gone":                         {o: observed(open, marked), shut: bridges},
		"the port has gone, it was open before us":  {o: observed(open, nil)},
		"somebody has shut it, and the port went":   {o: observed(closed, marked), unmark: marked},
		"the bridge has gone":                       {o: observed(netwatch.Link{Name: "br0", Index: 9}, marked), unmark: marked},
		"the bridge is another one":                 {o: observed(closed, nil, moved)},
		"rules stop what is forwarded":              {o: observed(closed, nil, stopped)},
		"rules stop it from now on":                 {o: observed(open, marked, stopped), shut: bridges},
		"nothing is forwarded":                      {o: noForwarding, shut: bridges},
		"nothing is forwarded from the bridge":      {o: observed(stays, marked, proxied), shut: []netwatch.Link{stays}},
		"the kernel serves it":                      {o: observed(open, nil, kernel)},
		"the engine needs the bridge itself by now": {o: observed(open, marked, kernel), unmark: marked},
		"the path is proxy":                         {o: observed(closed, nil, proxied), path: "proxy"},
		"the path is proxy, after a crash":          {o: observed(open, marked, proxied), path: "proxy", shut: bridges},
		"loopback0 has gone":                        {o: noLink, shut: bridges},
		"another daemon serves":                     {o: standby},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := decide(test.o, Policy{Repair: true, Direct: test.path != "proxy"})
			if !reflect.DeepEqual(got.Open, test.open) || !reflect.DeepEqual(got.Shut, test.shut) || !reflect.DeepEqual(got.Unmark, test.unmark) {
				t.Errorf("open %+v, shut %+v, unmark %q", got.Open, got.Shut, got.Unmark)
			}
			if got.unfinished() != (len(test.open) > 0) {
				t.Errorf("unfinished: %v", got.unfinished())
			}
			if got.Table == nil {
				if test.direct {
					t.Error("wants no table")
				}
				return
			}
			if (got.Table.Direct == nil) != (test.path == "proxy") || (got.Table.Direct[port] == to) != test.direct {
				t.Errorf("in the map: %v", got.Table.Direct)
			}
		})
	}
}
