package mirror

import (
	"net/netip"
	"slices"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// Observed is everything that was observed.
type Observed struct {
	// Links are all links, Host is the one on which Windows' localhost traffic arrives.
	Links []netwatch.Link
	Host  netwatch.Link
	// Table is the table in the kernel that has our table's name. Ours says that this
	// process owns it.
	Table nft.OurTable
	Ours  bool
	// Rules is what the rules of all others do to packets for 127.0.0.1, and Foreign is our
	// rules in their tables. Generation tells whether the ruleset is still the same.
	Rules      ruleset.Analysis
	Foreign    nft.ForeignRules
	Generation uint32
	// ReplyRule says that our ip rule exists, and Markers are the links on which we have
	// turned on route_localnet: see restoreMarker.
	ReplyRule bool
	Markers   []string
	// WSL is what exists of WSL's setup, and Lost what was seen earlier and is gone.
	// Settling says that something disappeared just now, and may come back.
	WSL, Lost WSL
	Settling  bool

	Mode netwatch.Mode
	// Lacks is what a policy may need and the kernel does not support.
	Lacks nft.Features
	// SourcePorts are the first and last port that WSL has reserved in Windows for
	// connections from Linux, as its own rules say; 0 if there is no such rule.
	SourcePorts [2]uint16
	// Own are the LAN addresses that WSL sends to Windows, as it does with 127.0.0.1. There
	// are some only with hostAddressLoopback.
	Own []netip.Addr
	// Addrs are Linux's own addresses outside 127.0.0.0/8, and Taken are the ports of
	// Policy.ToWindows that Linux serves. They are read only for that policy.
	Addrs []netip.Addr
	Taken ruleset.Ports

	// Counters are the counters of our rules. Only the status uses them.
	Counters nft.Counters
}

// Desired is the state that the kernel should have.
type Desired struct {
	State status.State
	// Table is our table as it should be, nil if there should be none.
	Table *nft.Table
	// ReplyRule says that our ip rule should exist.
	ReplyRule bool
	// Add and Remove are our rules in others' tables.
	Add, Remove []nft.ForeignRule
	// Restore is the part of WSL's setup to add again.
	Restore WSL
	// Open are the bridges on which to turn on route_localnet, Shut those on which to turn
	// it off again, and Unmark those on which it is no longer ours.
	Open, Shut []netwatch.Link
	Unmark     []string
	// Exposed are the bridges that stay open and that only the table guards. They are shut
	// if the table cannot be installed.
	Exposed []netwatch.Link
	// More says that another step follows, which depends on the result of this one.
	More bool
	// Wait says that it is too early to decide.
	Wait bool
}

// Policy is the user's choice.
type Policy struct {
	// Repair lets Linux's own clients reach the engine-served ports, and restores parts of
	// WSL's setup that others remove.
	Repair bool
	// Direct sends packets for published ports straight to the container instead of through
	// the engine's proxy.
	Direct bool
	// ToWindows are the ports on which containers reach Windows' 127.0.0.1.
	ToWindows ruleset.Ports
	// Except are the ports that are left alone.
	Except ruleset.Ports
}

// decide is a pure function: the same observation always gives the same answer. Once the
// answer has been carried out, decide returns it again.
func decide(o Observed, p Policy) Desired {
	switch {
	case o.Table.Owner != 0 && !o.Ours:
		// Ownership is the election: the daemon that owns the table serves, whatever else
		// exists. The ip rules belong to it.
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
		// In consomme mode, Windows' refusal is not known to get lost.
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

// teardown returns the next step towards the state in which everything of ours is removed.
// While a bridge is open, the table stays and guards it, but no longer sends packets past a
// proxy: a new flow would lead to a bridge that is about to shut, and its retransmitted
// packets would match the same conntrack entry.
func teardown(o Observed) Desired {
	d := Desired{Remove: o.Foreign.Present}
	d.bridges(o, nil)
	if o.Ours && len(d.Shut) > 0 {
		closing := o.Table.Closing()
		d.Table = &closing
	}
	return d
}

// handOver is teardown for the moment in which another daemon takes over. It keeps what
// that daemon will need too.
func handOver(o Observed) Desired {
	d := teardown(o)
	d.ReplyRule, d.Remove = o.ReplyRule, nil
	return d
}

// isNothing reports whether d adds nothing, removes nothing and has no table.
func (d Desired) isNothing(o Observed) bool {
	return d.Table == nil && d.ReplyRule == o.ReplyRule &&
		len(d.Add)+len(d.Remove)+len(d.Open)+len(d.Shut)+len(d.Unmark) == 0
}

// foreign returns the changes to our rules in others' tables.
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

// toWindows returns how containers reach Windows now, nil if they cannot, and the bridges
// that are needed for it. A published port belongs to its engine, even if nothing listens
// on it.
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
		if l.RouteLocalnet { // otherwise the kernel drops the redirected packets
			w.Links = append(w.Links, l.Name)
		}
	}
	return w, needed
}

// leadsOutside reports whether a bridge has a port that leads neither to a container nor to
// a virtual machine. Behind a NIC or a tunnel are other people's machines.
func leadsOutside(links []netwatch.Link, bridge netwatch.Link) bool {
	return slices.ContainsFunc(links, func(l netwatch.Link) bool {
		return l.Master == bridge.Index && l.Kind != "veth" && l.Kind != "tun"
	})
}

// sourcePorts returns the first and last source port that connections from Linux may have
// on 127.0.0.1; 0: unknown. In consomme mode WSL reserves none, so they are the kernel's
// default ip_local_port_range.
func sourcePorts(o Observed) (first, last uint16) {
	if o.Mode == netwatch.Consomme {
		return 32768, 60999
	}
	return o.SourcePorts[0], o.SourcePorts[1]
}

// direct returns the ports that are sent past the proxy now, and the bridges of those that
// can be.
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

// obstacle returns why packets for a port cannot be sent past its proxy, as text for users;
// "" if they can.
func obstacle(o Observed, p ruleset.Published) string {
	via := linkOf(o.Links, p.Via)
	switch {
	case p.Obstacle != "":
		return string(p.Obstacle)
	case !via.Present():
		return string(ruleset.NotOnBridge)
	case !o.Host.Forwarding || !via.Forwarding:
		// A proxy needs no forwarding, so it still works where forwarding is turned off.
		return "forwarding is off (net.ipv4.ip_forward)"
	}
	return ""
}

// bridges decides on route_localnet, which must be on for the bridges that are needed. It
// is turned on only when our own table is there and guards the bridge.
//
// It is turned off again where it was off before us, unless the engine's rules show for
// certain that the engine itself needs it by now: the engine would not turn it on again.
func (d *Desired) bridges(o Observed, needed []netwatch.Link) {
	for _, l := range needed {
		switch {
		case l.RouteLocalnet:
		case !o.Ours || !o.Table.Guards(l.Name):
			d.More = true // after it is guarded
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

// guarded returns the names of the links on which packets from containers arrive. WSL's own
// NICs have no kind; packets for 127.0.0.0/8 must pass on them.
//
// It does not matter whether route_localnet is on. Where it is off, the kernel drops what
// the guard would drop. When someone turns it on, for the link or for all links, there is
// no event.
func guarded(o Observed) (names []string) {
	for _, l := range o.Links {
		if l.Master == 0 && l.Index != o.Host.Index && (l.Kind == "bridge" || l.Kind == "veth") {
			names = append(names, l.Name)
		}
	}
	return names
}

// replies reports whether a container may reply to a client in Linux without a proxy. Its
// engine's rules decide: they always allow it for the machine's own addresses. An engine
// that rewrites its rules has none for a moment, but its bridge stays open. The bridge is
// also open where the rules cannot be seen (iptables-legacy). On a link that is not open,
// the kernel accepts no packet for 127.0.0.1 (ip_route_input_slow in net/ipv4/route.c).
//
// Links that are open only through the sysctl of "all" do not show, since netlink does not
// report that one. There, and behind a veth without a bridge, only the rules count.
func replies(o Observed) bool {
	return !o.Rules.EngineServed.Empty() || len(o.Own) > 0 || slices.ContainsFunc(o.Links, func(l netwatch.Link) bool {
		return l.Kind == "bridge" && l.RouteLocalnet
	})
}

// linkOf returns the link with the name and index of iface, or the zero Link.
func linkOf(links []netwatch.Link, iface ruleset.Iface) netwatch.Link {
	if l := netwatch.Find(links, iface.Name); l.Index == iface.Index {
		return l
	}
	return netwatch.Link{}
}
