package ports

import (
	"net/netip"

	"github.com/wslmirror/wslmirror/internal/sockdiag"
)

// measure counts how much of a range is in use.
//
// connect() searches for a source port in two passes (__inet_hash_connect in the
// kernel's net/ipv4/inet_hashtables.c): first among all ports with the parity of the
// low end, then among the others. It skips reserved ports. A port in use can be used
// again for another destination. A range of odd size is searched in pairs, so a search
// leaves out one of the two ends, chosen at random. That port is not counted.
//
// UDP uses a port for all destinations, and chooses in any order.
func measure(r Range, reserved []Range, again reuse, sockets []sockdiag.Socket, flows []Flow) Block {
	b := Block{Range: r, Reserved: reserved}
	for port := int(r.First); port <= int(r.Last); port++ {
		if b.IsReserved(uint16(port)) {
			continue
		}
		b.Usable++
		b.UsableUDP++
		if port%2 == int(r.First)%2 {
			b.FirstPass++
		}
	}
	if odd := r.Size()%2 == 1 && r.Size() > 1; odd && !(b.IsReserved(r.First) && b.IsReserved(r.Last)) {
		b.FirstPass--
		b.Usable--
	}

	type destination struct {
		proto string
		addr  netip.AddrPort
	}
	taken := map[destination]map[uint16]bool{}
	ports := map[string]map[uint16]bool{"tcp": {}, "udp": {}}
	take := func(proto string, local, remote netip.AddrPort) {
		if !r.Contains(local.Port()) {
			return
		}
		ports[proto][local.Port()] = true
		d := destination{proto, remote}
		if proto == "udp" {
			d.addr = netip.AddrPort{}
		} else if remote.Port() == 0 {
			return // a listener: in use, but without a destination
		}
		if taken[d] == nil {
			taken[d] = map[uint16]bool{}
		}
		taken[d][local.Port()] = true
	}
	for _, s := range sockets {
		if again.gives(s) {
			continue
		}
		take(s.Proto, s.Local, s.Remote)
	}
	for _, f := range flows {
		take(f.Proto, f.Local, f.Remote)
	}
	b.TCP, b.UDP = len(ports["tcp"]), len(ports["udp"])
	for d, of := range taken {
		l := Load{Proto: d.proto, Destination: d.addr, Used: len(of), Of: b.Usable}
		if d.proto == "udp" {
			l.Of = b.UsableUDP
		}
		if l.Used > b.Worst.Used || l.Used == b.Worst.Used && l.before(b.Worst) {
			b.Worst = l
		}
	}
	return b
}

// reuse is net.ipv4.tcp_tw_reuse: whether connect() reuses the port of a closed connection
// in TIME_WAIT to the same destination (tcp_twsk_unique in net/ipv4/tcp_ipv4.c). The kernel
// does so from one second after the end of the connection. It does not show which
// connections are younger.
type reuse int

const (
	never        reuse = iota // also without timestamps
	always                    //
	overLoopback              // the default: only if one end is a loopback address
)

// gives reports whether s is only a TIME_WAIT remainder whose port the kernel reuses.
func (r reuse) gives(s sockdiag.Socket) bool {
	if s.Proto != "tcp" || s.State != sockdiag.TimeWait {
		return false
	}
	return r == always || r == overLoopback && (s.Local.Addr().IsLoopback() || s.Remote.Addr().IsLoopback())
}

// before orders loads of equal size, so that the result is always the same.
func (l Load) before(m Load) bool {
	if l.Proto != m.Proto {
		return l.Proto < m.Proto
	}
	return l.Destination.Compare(m.Destination) < 0
}
