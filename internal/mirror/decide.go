package mirror

import (
	"slices"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// Observed is all that was seen.
type Observed struct {
	// Links are all links, Host the one on which Windows' localhost traffic arrives.
	Links []netwatch.Link
	Host  netwatch.Link
	// Table is what the kernel holds under the name of our table. Ours says that
	// this process owns it.
	Table nft.OurTable
	Ours  bool
	// Rules is what the rules of all the others do to packets for 127.0.0.1, and
	// Foreign are our rules among them. Their Generation tells whether they are
	// still the same.
	Rules      ruleset.Analysis
	Foreign    nft.ForeignRules
	Generation uint32
	// ReplyRule says that our ip rule is there, and Markers are the links whose
	// route_localnet is on because of us: see restoreMarker.
	ReplyRule bool
	Markers   []string
	// WSL is what there is of WSL's, and Lost what was seen of it and is gone. Settling
	// says that something has gone in this very moment, and may come back.
	WSL, Lost WSL
	Settling  bool

	// What follows is only for the status: the mode, what our rules have counted, and
	// the ports for connections of Linux, as WSL's own rules have them.
	Mode        netwatch.Mode
	Counters    nft.Counters
	SourcePorts [2]uint16
}

// Desired is what should be.
type Desired struct {
	State status.State
	// Table is what our table should be, nil if there should be none of ours.
	Table *nft.Table
	// ReplyRule says that our ip rule should be there.
	ReplyRule bool
	// Add and Remove are rules of ours in the tables of others.
	Add, Remove []nft.ForeignRule
	// Restore is what is to be added of WSL's.
	Restore WSL
	// Open are the bridges whose route_localnet should go on, Shut those where it
	// should go off again, and Unmark those where it is not ours any more.
	Open, Shut []netwatch.Link
	Unmark     []string
	// Exposed are the bridges that stay open and that nothing but the table guards: they
	// are shut if there is no table after all.
	Exposed []netwatch.Link
	// More says that this is one step of several: what comes next depends on what is
	// there after it.
	More bool
	// Wait says that what should be cannot be told yet.
	Wait bool
}

// Policy is what the user has chosen.
type Policy struct {
	// Repair has Linux's own clients reach the engine-served ports, and restores what
	// others remove of WSL's.
	Repair bool
	// Direct sends packets for published ports to the container itself, where
	// otherwise the engine's proxy would carry them.
	Direct bool
}

// decide is a pure function: the same observation always gives the same answer,
// and after the answer has been carried out it gives that answer again.
func decide(o Observed, p Policy) Desired {
	switch {
	case o.Table.Owner != 0 && !o.Ours:
		// Ownership is the election: who owns the table serves, whatever else is or
		// is not there. The ip rules are theirs.
		return Desired{State: status.Standby, ReplyRule: o.ReplyRule}
	case !o.Host.Present():
		d := teardown(o)
		d.State = status.Waiting
		return d
	}
	d := Desired{State: status.Active, ReplyRule: p.Repair, Remove: o.Foreign.Present}
	if p.Repair {
		d.Add, d.Remove = o.Foreign.Add, o.Foreign.Remove
		d.Restore, d.Wait = o.Lost, o.Settling
	}
	spec := nft.Spec{
		Index: o.Host.Index, EngineServed: o.Rules.EngineServed, Guarded: guarded(o),
		Repair: p.Repair, Replies: p.Repair && (p.Direct || replies(o)),
	}
	var needed []netwatch.Link
	if p.Direct {
		spec.Direct, needed = direct(o)
	}
	d.bridges(o, needed)
	table := spec.Table()
	d.Table = &table
	return d
}

// teardown returns the next step towards the state in which everything of ours is
// removed. While a bridge is open the table stays and guards it, but sends nothing
// past a proxy any more: a flow that began now would lead to a bridge that is shut,
// and its first packet would be sent again into the same entry of conntrack.
func teardown(o Observed) Desired {
	d := Desired{Remove: o.Foreign.Present}
	d.bridges(o, nil)
	if o.Ours && len(d.Shut) > 0 {
		closing := o.Table.WithoutTargets()
		d.Table = &closing
	}
	return d
}

// handOver is teardown for the moment in which another daemon takes over: what it
// will want too stays.
func handOver(o Observed) Desired {
	d := teardown(o)
	d.ReplyRule, d.Remove = o.ReplyRule, nil
	return d
}

// isNothing reports whether d has nothing to be added or removed, and no table.
func (d Desired) isNothing(o Observed) bool {
	return d.Table == nil && d.ReplyRule == o.ReplyRule &&
		len(d.Add)+len(d.Remove)+len(d.Open)+len(d.Shut)+len(d.Unmark) == 0
}

// direct is which ports are sent past the proxy now, and the bridges for those
// that can be.
func direct(o Observed) (targets nft.Targets, needed []netwatch.Link) {
	targets = nft.Targets{}
	for _, p := range o.Rules.Published {
		via := linkOf(o.Links, p.Via)
		if p.EngineServed || obstacle(o, p) != "" {
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
func obstacle(o Observed, p ruleset.Published) string {
	via := linkOf(o.Links, p.Via)
	switch {
	case p.Obstacle != "":
		return string(p.Obstacle)
	case !via.Present():
		return string(ruleset.NotOnBridge)
	case !o.Host.Forwarding || !via.Forwarding:
		// A proxy needs no forwarding, so it works where somebody has put it off.
		return "forwarding is off (net.ipv4.ip_forward)"
	}
	return ""
}

// bridges decides on route_localnet, which must be on for the bridges that are
// needed. It goes on only when the table that guards the bridge is there and ours.
//
// It is restored where it was off before us, except where the engine itself needs
// it by now, by rules that say so for certain: it would not set it again.
func (d *Desired) bridges(o Observed, needed []netwatch.Link) {
	for _, l := range needed {
		switch {
		case l.RouteLocalnet:
		case !o.Ours || !o.Table.Guards(l.Name):
			d.More = true // once it is guarded
		case !slices.Contains(d.Open, l):
			d.Open, d.More = append(d.Open, l), true
		}
	}
	for _, name := range o.Markers {
		l := netwatch.Find(o.Links, name)
		engines := slices.ContainsFunc(o.Rules.Published, func(p ruleset.Published) bool {
			return p.Via.Index == l.Index && o.Rules.Certain.Has(p.Port)
		})
		isNeeded := slices.ContainsFunc(needed, func(n netwatch.Link) bool { return n.Name == name })
		switch {
		case isNeeded && l.RouteLocalnet:
			d.Exposed = append(d.Exposed, l)
		case isNeeded:
		case l.Present() && l.RouteLocalnet && !engines:
			d.Shut, d.More = append(d.Shut, l), true
		default:
			d.Unmark = append(d.Unmark, name)
		}
	}
}

// guarded are the names of the links on which packets from containers arrive. WSL's
// own NICs are of no kind, and must let packets of 127.0.0.0/8 pass.
//
// Whether route_localnet is on does not matter. Where it is off, the kernel drops
// what the guard would drop; where somebody puts it on, by the file of the link or
// by that of all links, no event tells of it.
func guarded(o Observed) (names []string) {
	for _, l := range o.Links {
		if l.Master == 0 && l.Index != o.Host.Index && (l.Kind == "bridge" || l.Kind == "veth") {
			names = append(names, l.Name)
		}
	}
	return names
}

// replies reports whether a container may reply to a client of 127.0.0.1 without a
// proxy, by the rules of its engine. An engine that writes its rules anew has none for
// a moment, but its bridge is open meanwhile, as it is where the rules cannot be seen
// (iptables-legacy). On a link that is not open the kernel lets no packet for
// 127.0.0.1 in (ip_route_input_slow in net/ipv4/route.c).
//
// Links that somebody has opened by the sysctl of "all" do not show, since netlink does
// not tell that one. There, and behind a veth without a bridge, only the rules count.
func replies(o Observed) bool {
	return !o.Rules.EngineServed.Empty() || slices.ContainsFunc(o.Links, func(l netwatch.Link) bool {
		return l.Kind == "bridge" && l.RouteLocalnet
	})
}

// linkOf is the link that iface names.
func linkOf(links []netwatch.Link, iface ruleset.Iface) netwatch.Link {
	if l := netwatch.Find(links, iface.Name); l.Index == iface.Index {
		return l
	}
	return netwatch.Link{}
}
