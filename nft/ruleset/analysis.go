package ruleset

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// Localhost is 127.0.0.1.
var Localhost = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// FromWindows is a packet from Windows to all ports of 127.0.0.1 as it arrives on the
// link loopback.
func FromWindows(loopback Iface) Packet {
	return Packet{Hook: *nftables.ChainHookPrerouting, Iif: loopback, Src: Localhost, Dst: Localhost, Ports: AllPorts}
}

// FromLinux is a packet from Linux to all ports of 127.0.0.1 as it leaves through the
// link loopback.
func FromLinux(loopback Iface) Packet {
	return Packet{Hook: *nftables.ChainHookOutput, Oif: loopback, Src: Localhost, Dst: Localhost, Ports: AllPorts}
}

// Unnamed is a link that no rule names.
var Unnamed = Iface{Name: "another", Index: 1 << 30}

// A Published is a port of 127.0.0.1 that the rules send elsewhere: a port published by
// a container engine.
type Published struct {
	Port Port
	// Addr is the address on which the port is published: 127.0.0.1 if the rules name
	// it, else 0.0.0.0.
	Addr netip.Addr
	// To is where the port is sent. A part is zero if a rule computes it.
	To netip.AddrPort
	// Engine is the engine that published it, guessed from the names of table and
	// chain.
	Engine string
	// EngineServed says that the engine's rules are meant to serve Linux's own clients
	// too. A rule of ours that keeps packets away from them would do harm. Otherwise
	// the engine has a proxy that listens.
	EngineServed bool
	// Via is the bridge behind which To is, if known. Obstacle is why packets cannot
	// bypass the proxy.
	Via      Iface
	Obstacle Obstacle

	sure bool // the rules certainly send it to To
	at   Place
}

// MostPorts limits how many ports of one rule are listed one by one. A rule without a
// port, "everything to that machine", does not publish a port.
const MostPorts = 1024

// An Analysis is what the rules do to packets for 127.0.0.1.
type Analysis struct {
	// EngineServed are the ports that an engine's rules serve on 127.0.0.1: those that
	// the rules at the hooks prerouting and output send to the same place. The rules
	// decide this, not the name of the engine. What counts is what the engine intends,
	// not what happens to a packet after everybody's rules. A redirect at the hook
	// output alone, as by a transparent proxy, does not tell who serves the port. If
	// another rule keeps Linux's packets away from the engine's rules, the rules at the
	// hook prerouting still serve them and must stay in effect (moby#53553).
	EngineServed Ports
	// Certain are those EngineServed ports that the rules leave no doubt about.
	Certain Ports
	// Published are the ports that the rules send elsewhere.
	Published []Published
}

// Analyse walks packets to 127.0.0.1 through the rules: packets from Windows, which
// arrive on the link loopback, and packets from Linux, which leave through it. bridges
// are the links behind which containers may be. They matter only for the Obstacles:
// without bridges the rules for forwarded packets are not read.
func (rs *Ruleset) Analyse(loopback Iface, bridges []Bridge) Analysis {
	arriving := rs.Walk(FromWindows(loopback), Sight{})
	// A Docker that knows loopback0 lets its packets pass to the proxy. What it
	// publishes shows in how it treats packets from other links.
	arriving = append(arriving, rs.Walk(FromWindows(Unnamed), Sight{Chains: NAT})...)
	leaving := rs.Walk(FromLinux(loopback), Sight{Chains: NAT})
	intended := rs.Walk(FromLinux(loopback), Sight{Chains: Intended})

	a := Analysis{EngineServed: sameWay(arriving, intended)}
	unsure := func(o Outcome) bool { return !o.Sure }
	a.Certain = sameWay(slices.DeleteFunc(slices.Clone(arriving), unsure), slices.DeleteFunc(slices.Clone(intended), unsure))
	a.Published = published(slices.Concat(arriving, leaving, intended))
	for i := range a.Published {
		p := &a.Published[i]
		p.EngineServed = a.EngineServed.Has(p.Port)
	}
	rs.findObstacles(a.Published, loopback, bridges)
	return a
}

// allOfOne is about the number of ports of one protocol.
const allOfOne = 60_000

// sameWay returns the ports that both sides translate to the same place: by the same
// rule, to the same address, or both to an unknown one of several addresses. Arriving
// packets that are sent to another port of this machine need no second rule. Rules without
// a port are not an engine's.
func sameWay(arriving, leaving []Outcome) Ports {
	type target struct {
		to   netip.AddrPort
		base uint16
	}
	byRule, byTarget := map[Place]Ports{}, map[target]Ports{}
	for _, o := range leaving {
		if o.Fate == Translated {
			byRule[o.At] = byRule[o.At].Union(o.Ports)
		}
		if to := (target{o.To, o.Base}); o.Fate == Translated && o.Ports.Len() < allOfOne {
			byTarget[to] = byTarget[to].Union(o.Ports)
		}
	}
	var same []span
	for _, o := range arriving {
		if o.Fate != Translated {
			continue
		}
		same = append(same, o.Ports.Intersect(byRule[o.At])...)
		same = append(same, o.Ports.Intersect(byTarget[target{o.To, o.Base}])...)
		if o.To.Addr().IsLoopback() && o.Ports.Len() < allOfOne {
			same = append(same, o.Ports...)
		}
	}
	return Ports(same).normal()
}

// published returns the ports that the outcomes translate. For each port, the first
// outcome with a known target counts.
func published(outcomes []Outcome) (list []Published) {
	byPort := map[Port]Published{}
	for _, o := range outcomes {
		if o.Fate != Translated || o.Ports.Len() > MostPorts {
			continue
		}
		for p := range o.Ports.All() {
			if have, ok := byPort[p]; ok && (have.To.Addr().IsValid() || !o.To.Addr().IsValid()) {
				continue
			}
			to := o.To
			switch {
			case !to.Addr().IsValid():
			case to.Port() == 0:
				to = netip.AddrPortFrom(to.Addr(), p.Number)
			case o.Base != 0:
				to = netip.AddrPortFrom(to.Addr(), to.Port()+p.Number-o.Base)
			}
			addr := netip.IPv4Unspecified()
			if o.ToAddr {
				addr = Localhost
			}
			byPort[p] = Published{Port: p, Addr: addr, To: to, Engine: engine(o.At.Table(), o.At.Chain()), sure: o.Sure, at: o.At}
		}
	}
	for _, p := range byPort {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b Published) int { return a.Port.Compare(b.Port) })
	return list
}

// engine guesses which engine wrote a rule, for display only. Nothing depends on it.
func engine(table, chain string) string {
	for _, known := range []struct{ prefix, name string }{
		{"DOCKER", "docker"},
		{"docker", "docker"},
		{"NETAVARK", "podman"},
		{"netavark", "podman"},
		{"nv_", "podman"},
		{"CNI-", "cni"},
		{"KUBE-", "kubernetes"},
		{"kube-proxy", "kubernetes"},
	} {
		if strings.HasPrefix(chain, known.prefix) || strings.HasPrefix(table, known.prefix) {
			return known.name
		}
	}
	return table + " " + chain
}

// Passes reports whether an engine lets packets that arrive on the link loopback pass
// to the proxy of a published port. Docker 27.3 and later do that if the link exists
// when they start. known says whether there is a published port to judge by.
func (rs *Ruleset) Passes(loopback Iface) (passes, known bool) {
	translated := func(by Iface) Ports {
		var spans []span
		for _, o := range rs.Walk(FromWindows(by), Sight{Chains: NAT}) {
			if o.Fate == Translated {
				spans = append(spans, o.Ports...)
			}
		}
		return Ports(spans).normal()
	}
	others := translated(Unnamed)
	return !others.Empty() && others.Intersect(translated(loopback)).Empty(), !others.Empty()
}
