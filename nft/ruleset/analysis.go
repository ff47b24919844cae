package ruleset

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// Localhost is 127.0.0.1.
var Localhost = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// FromWindows is a packet from Windows to all ports of 127.0.0.1, when it arrives
// on the link loopback.
func FromWindows(loopback Iface) Packet {
	return Packet{Hook: *nftables.ChainHookPrerouting, Iif: loopback, Src: Localhost, Dst: Localhost, Ports: AllPorts}
}

// FromLinux is a packet from Linux to all ports of 127.0.0.1, when it leaves
// through the link loopback.
func FromLinux(loopback Iface) Packet {
	return Packet{Hook: *nftables.ChainHookOutput, Oif: loopback, Src: Localhost, Dst: Localhost, Ports: AllPorts}
}

// Unnamed is a link that no rule names.
var Unnamed = Iface{Name: "another", Index: 1 << 30}

// A Published is a port of 127.0.0.1 that the rules send elsewhere: a port that
// a container engine publishes.
type Published struct {
	Port Port
	// Addr is the address on which it is published: 127.0.0.1 if the rules name
	// it, else 0.0.0.0.
	Addr netip.Addr
	// To is where it is sent; its parts are zero where a rule computes them.
	To netip.AddrPort
	// Engine is who published it, as far as the names of table and chain tell.
	Engine string
	// EngineServed says that its engine means to serve Linux's own clients too, by
	// the same rules. A rule of ours that keeps a packet from them does harm then.
	// Otherwise a proxy of the engine listens.
	EngineServed bool
	// Via is the bridge behind which To is, if it is known, and Obstacle why
	// packets cannot be sent there past a proxy.
	Via      Iface
	Obstacle Obstacle

	sure bool // that it goes to To
	at   Place
}

// MostPorts bounds how many ports of one rule are listed one by one. A rule without
// a port, "everything to that machine", is no published port.
const MostPorts = 1024

// An Analysis is what the rules do to packets for 127.0.0.1.
type Analysis struct {
	// EngineServed are the ports that an engine serves on 127.0.0.1 by rules: those
	// that the rules at the hooks prerouting and output send to the same place. It
	// is that, and not the name of an engine, which tells its kind; and it is what
	// the engine intends that counts, not what becomes of a packet after everybody's
	// rules. A redirect at the hook output alone, of a transparent proxy, says
	// nothing of who serves the port; and a rule that keeps Linux's packets from the
	// engine's leaves them to the rules at the hook prerouting, which must not be
	// taken from them (moby#53553).
	EngineServed Ports
	// Certain are those of them for which the rules leave no doubt.
	Certain Ports
	// Published are the ports that the rules send elsewhere.
	Published []Published
}

// Analyse walks the packets to 127.0.0.1 through the rules: those from Windows,
// which arrive on the link loopback, and those from Linux, which leave through it.
// Where the containers may be, on the bridges, matters for the Obstacles alone;
// without bridges the rules for what is forwarded are not read.
func (rs *Ruleset) Analyse(loopback Iface, bridges []Bridge) Analysis {
	arriving := rs.Walk(FromWindows(loopback), Sight{})
	// A Docker that knows of loopback0 lets it pass to its proxy. What it
	// publishes shows in what it does to all others.
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

// allOfOne is about as many ports as a protocol has.
const allOfOne = 60_000

// sameWay is the ports that both translate to the same place: by the same rule, or
// to the same address, or to one of several that is not told. What arrives and is
// sent to another port of this machine needs nobody else's rule. Rules without a port
// are no engine's.
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

// published are the ports that the outcomes translate, by the first of them that
// says where to.
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

// engine guesses, for people, who wrote a rule. Nothing depends on it.
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

// Passes reports whether an engine lets what arrives on the link loopback for a
// port that it publishes pass to its proxy, as Docker 27.3 and later do if they
// find the link when they start, and whether there is such a port to tell by.
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
