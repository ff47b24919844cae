package mirror

import (
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
