package mirror

import (
	"slices"

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
	// SourcePorts are the ports for connections of Linux, as WSL's own rules
	// have them; only for the status.
	SourcePorts [2]uint16
	// Returns says that our ip rule is there, and Marked are the links whose
	// route_localnet is on because of us: see bridgeMark.
	Returns bool
	Marked  []string
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
	// Open are the bridges whose route_localnet should go on, Shut those where it
	// should go off again, and Unmark those where it is not ours any more.
	Open, Shut []netwatch.Link
	Unmark     []string
}

// unfinished says that this is one step, after which there is another: no packet
// is sent to a bridge that cannot take its reply yet.
func (d Desired) unfinished() bool { return len(d.Open) > 0 }

// Policy is what the user has chosen.
type Policy struct {
	// Repair has Linux's own clients reach the ports that the kernel serves.
	Repair bool
	// Direct sends packets for published ports to the container itself, where
	// otherwise the engine's proxy would carry them.
	Direct bool
}

// decide is a pure function: the same observation always gives the same answer,
// and after the answer has been carried out it gives that answer again.
func decide(o Observed, p Policy) Desired {
	switch {
	case o.Kernel.Owner != 0 && !o.Ours:
		// Ownership is the election: who holds the table serves, whatever else
		// is or is not there. The ip rules are theirs.
		return Desired{State: status.Standby, Returns: o.Returns}
	case !o.Link.Present():
		d := nothing(o)
		d.State = status.Waiting
		return d
	}
	d := Desired{
		State:   status.Active,
		Table:   &nft.Spec{Index: o.Link.Index, Kernel: o.View.Kernel, Repair: p.Repair},
		Returns: p.Repair,
		Remove:  o.View.Accepts,
	}
	if p.Repair {
		d.Add, d.Remove = o.View.Missing, o.View.Surplus
	}
	var needed []netwatch.Link
	if p.Direct {
		d.Table.Direct, needed = direct(o)
	}
	d.marks(o, needed)
	d.Table.Guarded = guarded(o)
	d.Table.Replies = p.Repair && (p.Direct || replies(o))
	return d
}

// nothing is that nothing of ours should be there.
func nothing(o Observed) Desired {
	d := Desired{Remove: o.View.Accepts}
	d.marks(o, nil)
	return d
}

// left reports whether something of ours is there that would outlive the process.
func left(o Observed) bool {
	return o.Returns || len(o.Marked) > 0 || len(o.View.Accepts) > 0
}

// direct is which ports are sent past the proxy now, and the bridges for those
// that can be.
func direct(o Observed) (targets nft.Targets, needed []netwatch.Link) {
	targets = nft.Targets{}
	for _, p := range o.View.Published {
		via := linkOf(o.Links, p.Via)
		if p.Kernel || obstacle(o, p) != "" {
			continue
		}
		needed = append(needed, via)
		if via.RouteLocalnet {
			targets[p.Port] = p.To
		}
	}
	return targets, needed
}

// obstacle is why packets for a port cannot be sent past its proxy, in words for
// people; "" if they can.
func obstacle(o Observed, p nft.Published) string {
	via := linkOf(o.Links, p.Via)
	switch {
	case p.Obstacle != "":
		return string(p.Obstacle)
	case !via.Present():
		return string(nft.NotOnBridge)
	case !o.Link.Forwarding || !via.Forwarding:
		// A proxy needs no forwarding, so it works where somebody has put it off.
		return "forwarding is off (net.ipv4.ip_forward)"
	}
	return ""
}

// marks decides on route_localnet, which must be on for the bridges that are
// needed. It is put back where it was off before us, except where the engine
// itself needs it by now: it would not set it again.
func (d *Desired) marks(o Observed, needed []netwatch.Link) {
	for _, l := range needed {
		if !l.RouteLocalnet && !slices.Contains(d.Open, l) {
			d.Open = append(d.Open, l)
		}
	}
	for _, name := range o.Marked {
		l := netwatch.Find(o.Links, name)
		engines := slices.ContainsFunc(o.View.Published, func(p nft.Published) bool {
			return p.Kernel && p.Via.Index == l.Index
		})
		switch {
		case slices.ContainsFunc(needed, func(n netwatch.Link) bool { return n.Name == name }):
		case l.Present() && l.RouteLocalnet && !engines:
			d.Shut = append(d.Shut, l)
		default:
			d.Unmark = append(d.Unmark, name)
		}
	}
}

// guarded are the names of the links by which packets come from containers. WSL's
// own NICs are of no kind, and must let packets of 127.0.0.0/8 pass.
//
// Whether route_localnet is on does not matter. Where it is off, the kernel drops
// what the guard would drop; where somebody puts it on, by the file of the link or
// by that of all links, no event tells of it.
func guarded(o Observed) (names []string) {
	for _, l := range o.Links {
		if l.Master == 0 && l.Index != o.Link.Index && (l.Kind == "bridge" || l.Kind == "veth") {
			names = append(names, l.Name)
		}
	}
	return names
}

// replies reports whether a container may reply to a client of 127.0.0.1 without a
// proxy, by the rules of its engine. An engine that writes its rules anew has none for
// a moment, but its bridge is open meanwhile, as it is where the rules cannot be seen
// (iptables-legacy). By a link that is not open the kernel lets no packet for
// 127.0.0.1 in (ip_route_input_slow in net/ipv4/route.c).
//
// Links that somebody has opened by the sysctl of "all" do not show, since netlink does
// not tell that one. There, and behind a veth without a bridge, only the rules count.
func replies(o Observed) bool {
	return !o.View.Kernel.Empty() || slices.ContainsFunc(o.Links, func(l netwatch.Link) bool {
		return l.Kind == "bridge" && l.RouteLocalnet
	})
}

// linkOf is the link that iface names.
func linkOf(links []netwatch.Link, iface nft.Iface) netwatch.Link {
	if l := netwatch.Find(links, iface.Name); l.Index == iface.Index {
		return l
	}
	return netwatch.Link{}
}
