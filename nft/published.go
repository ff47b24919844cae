package nft

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// localhost is 127.0.0.1.
var localhost = netip.AddrFrom4([4]byte(loopback))

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
	// Kernel says that the kernel serves it to Linux's own clients as well, or
	// may: then the engine's DNAT is all that serves it, and a rule of ours that
	// keeps a packet from it does harm. Otherwise a proxy of the engine listens.
	Kernel bool
	// Via is the bridge behind which To is, if it is known, and Obstacle why
	// packets cannot be sent there past a proxy.
	Via      Iface
	Obstacle Obstacle

	sure bool // that it goes to To
}

// most bounds how many ports of one rule are listed one by one. A rule without a
// port, "everything to that machine", is no published port.
const most = 1024

// View is what the rules do to packets for 127.0.0.1.
type View struct {
	// Kernel are the ports that the kernel serves to Linux's own clients: those
	// for which the rules at the hook output change the destination, or may.
	// It is that, and not the name of an engine, which tells its kind.
	Kernel Ports
	// Published are the ports that the rules send elsewhere.
	Published []Published
	// Accepts are the rules of ours in the tables of others, Surplus those among
	// them that are there for nothing, and Missing those that should be there.
	Accepts, Surplus, Missing []Accept
	// Generation is that of the rules, by which PlaceAccepts knows them again.
	Generation uint32
}

// View walks the packets to 127.0.0.1 through the rules: those from Windows,
// which come in by the link loopback, and those from Linux, which leave by it.
// Where the containers may be, on the bridges, matters for the Obstacles alone.
func (rs *Ruleset) View(loopback Iface, bridges []Bridge) View {
	packet := Packet{Src: localhost, Dst: localhost, Ports: AllPorts}
	fromLinux := packet
	fromLinux.Hook, fromLinux.Oif = *nftables.ChainHookOutput, loopback
	packet.Hook, packet.Iif = *nftables.ChainHookPrerouting, loopback

	var v View
	byPort := map[Port]Published{}
	add := func(o Outcome) {
		if o.Fate != Translated || o.Ports.Len() > most {
			return
		}
		for p := range o.Ports.All() {
			if have, ok := byPort[p]; ok && (have.To.Addr().IsValid() || !o.To.Addr().IsValid()) {
				continue // the first rule wins
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
				addr = localhost
			}
			byPort[p] = Published{Port: p, Addr: addr, To: to, Engine: engine(o.Table, o.Chain), sure: o.Sure}
		}
	}
	for _, o := range rs.Walk(packet) {
		add(o)
	}
	// A Docker that knows of loopback0 lets it pass to its proxy. What it
	// publishes shows in what it does to all others.
	elsewhere := packet
	elsewhere.Iif = another
	for _, o := range rs.walk(elsewhere, onlyNAT).outcomes {
		add(o)
	}
	v.Generation = rs.generation
	v.Accepts = rs.Accepts()
	v.Missing, v.Surplus = rs.accepts(packet)
	var kernel []span
	for _, o := range rs.Walk(fromLinux) {
		if o.Fate == Translated || o.Fate == Redirected {
			kernel = append(kernel, o.Ports...)
		}
		add(o)
	}
	v.Kernel = Ports(kernel).normal()
	for _, p := range byPort {
		p.Kernel = v.Kernel.Has(p.Port)
		v.Published = append(v.Published, p)
	}
	slices.SortFunc(v.Published, func(a, b Published) int { return a.Port.Compare(b.Port) })
	rs.findObstacles(v.Published, loopback, bridges)
	return v
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
