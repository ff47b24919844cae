package mirror

import (
	"net/netip"
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

	Mode netwatch.Mode
	// Lacks is what the kernel does not take of what a policy may want.
	Lacks nft.Features
	// SourcePorts are the first and last port that WSL has reserved in Windows for
	// connections of Linux, by its own rules; 0 where there is no such rule.
	SourcePorts [2]uint16
	// Own are the addresses of the LAN that WSL sends to Windows as it does with
	// 127.0.0.1, with hostAddressLoopback.
	Own []netip.Addr
	// Addrs are Linux's own addresses but those of 127.0.0.0/8, and Taken the ports of
	// Policy.ToWindows on which Linux serves one of them. Only that policy needs them.
	Addrs []netip.Addr
	Taken ruleset.Ports

	// Counters are what our rules have counted, for the status only.
	Counters nft.Counters
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
	// ToWindows are the ports at which containers reach Windows' 127.0.0.1.
	ToWindows ruleset.Ports
	// Except are the ports for which nothing is done.
	Except ruleset.Ports
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
	d := Desired{State: status.Active, ReplyRule: p.Repair && !o.Lacks.Repair, Remove: o.Foreign.Present}
	spec := nft.Spec{Index: o.Host.Index, EngineServed: o.Rules.EngineServed, Guarded: guarded(o), Except: p.Except}
	if p.Repair {
		d.Add, d.Remove = foreign(o, p)
		d.Restore, d.Wait = o.Lost, o.Settling
		// In consomme Windows' refusal is not known to get lost.
		spec.Refuse = o.Mode.Mirrors() && !o.Lacks.Refuse
	}
	if p.Repair && !o.Lacks.Repair {
		spec.Repair, spec.Own = true, o.Own
		spec.Replies = p.Direct || replies(o)
	}
	var needed []netwatch.Link
	if p.Direct && !o.Lacks.Direct {
		spec.Direct, needed = direct(o, p)
	}
	if !p.ToWindows.Empty() && !o.Lacks.ToWindows {
		var bridges []netwatch.Link
		spec.ToWindows, bridges = toWindows(o, p)
		needed = append(needed, bridges...)
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
		closing := o.Table.Closing()
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

// foreign is what is to be changed of our rules in the tables of others.
func foreign(o Observed, p Policy) (add, remove []nft.ForeignRule) {
	excepted := func(r nft.ForeignRule) bool { return p.Except.Has(r.Port) }
	add = slices.DeleteFunc(slices.Clone(o.Foreign.Add), excepted)
	remove = slices.Clone(o.Foreign.Remove)
	for _, r := range o.Foreign.Present {
		if excepted(r) && !slices.Contains(remove, r) {
			remove = append(remove, r)
		}
	}
	return add, remove
}

// toWindows is how containers reach Windows now, nil if they cannot, and the bridges
// that are needed. Published ports are their engine's, also where nobody listens.
func toWindows(o Observed, p Policy) (w *nft.ToWindows, needed []netwatch.Link) {
	first, last := sourcePorts(o)
	if last == 0 {
		return nil, nil
	}
	published := o.Rules.EngineServed
	for _, p := range o.Rules.Published {
		published = published.Union(ruleset.PortSet(p.Port))
	}
	w = &nft.ToWindows{Ports: p.ToWindows.Minus(o.Taken).Minus(published), Addrs: o.Addrs, First: first, Last: last}
	guarded := guarded(o)
	for _, l := range o.Links {
		if l.Kind != "bridge" || !l.Up || !slices.Contains(guarded, l.Name) || leadsOutside(o.Links, l) {
			continue
		}
		needed = append(needed, l)
		if l.RouteLocalnet { // or the kernel would drop what is sent on
			w.Links = append(w.Links, l.Name)
		}
	}
	return w, needed
}

// leadsOutside reports whether a bridge has a port that leads neither to a container
// nor to a virtual machine: behind a NIC or a tunnel there are others' machines.
func leadsOutside(links []netwatch.Link, bridge netwatch.Link) bool {
	return slices.ContainsFunc(links, func(l netwatch.Link) bool {
		return l.Master == bridge.Index && l.Kind != "veth" && l.Kind != "tun"
	})
}

// sourcePorts are the ports that connections of Linux may have on 127.0.0.1, both ends
// inclusive; 0: they are not known. In consomme, where WSL has reserved none, they are
// the kernel's own (ip_local_port_range), as they are if nobody changes them.
func sourcePorts(o Observed) (first, last uint16) {
	if o.Mode == netwatch.Consomme {
		return 32768, 60999
	}
	return o.SourcePorts[0], o.SourcePorts[1]
}

// direct is which ports are sent past the proxy now, and the bridges for those
// that can be.
func direct(o Observed, policy Policy) (targets nft.Targets, needed []netwatch.Link) {
	targets = nft.Targets{}
	for _, p := range o.Rules.Published {
		via := linkOf(o.Links, p.Via)
		if p.EngineServed || policy.Except.Has(p.Port) || obstacle(o, p) != "" {
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

// replies reports whether a container may reply to a client of Linux without a proxy,
// by the rules of its engine, which always do so for the machine's own addresses. An
// engine that writes its rules anew has none for a moment, but its bridge is open
// meanwhile, as it is where the rules cannot be seen (iptables-legacy). On a link that
// is not open the kernel lets no packet for 127.0.0.1 in (ip_route_input_slow in
// net/ipv4/route.c).
//
// Links that somebody has opened by the sysctl of "all" do not show, since netlink does
// not tell that one. There, and behind a veth without a bridge, only the rules count.
func replies(o Observed) bool {
	return !o.Rules.EngineServed.Empty() || len(o.Own) > 0 || slices.ContainsFunc(o.Links, func(l netwatch.Link) bool {
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
