package mirror

import (
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
)

// Observed is all that a decision is made from.
type Observed struct {
	// Link is the link by which Windows' localhost traffic comes.
	Link netwatch.Link
	// Kernel is what the kernel holds under the name of our table.
	Kernel nft.State
	// Ours says that this process owns that table.
	Ours bool
	// View is what the rules of all the others do to packets for 127.0.0.1.
	View nft.View
}

// Desired is what should be.
type Desired struct {
	State status.State
	// Table is what our table should contain, nil if there should be none of
	// ours.
	Table *nft.Table
}

// decide is a pure function: the same observation always gives the same answer,
// and after the answer has been carried out it gives that answer again.
func decide(o Observed) Desired {
	switch {
	case o.Kernel.Owner != 0 && !o.Ours:
		// Ownership is the election: who holds the table serves, whatever else
		// is or is not there.
		return Desired{State: status.Standby}
	case !o.Link.Present():
		return Desired{State: status.Waiting}
	default:
		t := nft.Mirror(o.Link.Index, o.View.Kernel)
		return Desired{State: status.Active, Table: &t}
	}
}
