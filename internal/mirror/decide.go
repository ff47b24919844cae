package mirror

import (
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
)

// Observed is all that a decision is made from.
type Observed struct {
	// Links are all links, Link the one by which Windows' localhost traffic
	// comes.
	Links []netwatch.Link
	Link  netwatch.Link
	// Kernel is what the kernel holds under the name of our table.
	Kernel nft.State
	// Ours says that this process owns that table.
	Ours bool
	// View is what the rules of all the others do to packets for 127.0.0.1.
	View nft.View
	// Returns says that our ip rule is there.
	Returns bool
}

// Desired is what should be.
type Desired struct {
	State status.State
	// Table is what our table should be, nil if there should be none of ours.
	Table *nft.Spec
	// Returns says that our ip rule should be there: see returnRule.
	Returns bool
	// Add and Remove are rules of ours in the tables of others.
	Add, Remove []nft.Accept
}

// decide is a pure function: the same observation always gives the same answer,
// and after the answer has been carried out it gives that answer again.
func decide(o Observed, repair bool) Desired {
	switch {
	case o.Kernel.Owner != 0 && !o.Ours:
		// Ownership is the election: who holds the table serves, whatever else
		// is or is not there. The ip rule is theirs.
		return Desired{State: status.Standby, Returns: o.Returns}
	case !o.Link.Present():
		return Desired{State: status.Waiting, Remove: o.View.Accepts}
	}
	d := Desired{
		State: status.Active,
		Table: &nft.Spec{
			Index:   o.Link.Index,
			Kernel:  o.View.Kernel,
			Repair:  repair,
			Guarded: guarded(o.Links, o.Link),
		},
		Returns: repair,
		Remove:  o.View.Accepts,
	}
	if repair {
		d.Add, d.Remove = o.View.Missing, o.View.Surplus
	}
	return d
}

// guarded are the names of the links to containers that let packets of
// 127.0.0.0/8 pass. WSL's own NICs do too, and must: they are of no kind.
func guarded(links []netwatch.Link, loopback netwatch.Link) (names []string) {
	for _, l := range links {
		if l.RouteLocalnet && l.Index != loopback.Index && (l.Kind == "bridge" || l.Kind == "veth") {
			names = append(names, l.Name)
		}
	}
	return names
}
