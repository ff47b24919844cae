package mirror

import (
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
			got := decide(o, true)
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
			if again := decide(o, true); again.State != got.State {
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
			got := decide(test.o, test.repair)
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
		{Name: "veth1234", Index: 6, Kind: "veth", RouteLocalnet: true},
		{Name: "wg0", Index: 7, Kind: "wireguard", RouteLocalnet: true},
	}
	got := guarded(links, loopback0)
	if want := []string{"podman0", "veth1234"}; !reflect.DeepEqual(got, want) {
		t.Errorf("guards %q, want %q", got, want)
	}
}
