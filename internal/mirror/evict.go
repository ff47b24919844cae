package mirror

import (
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/conntrack"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// evictions is which flows have to begin anew now that the table is after and was
// before, which has no chains if there was none of ours; nil: none.
//
// A conntrack entry keeps for life the NAT that its first packet was given. A UDP
// client with a fixed source port that began before our rule was there would be sent
// to the container for as long as it keeps sending, and a TCP SYN retransmits
// into the entry of the first try. Without its entry the next packet is a new
// flow, and meets the rule.
//
// Most changes are ports that are published, which evict nothing. Looking through a
// hundred thousand connections takes time.
func evictions(before, after nft.Table, published []ruleset.Published) func(conntrack.Flow) bool {
	m := misdirected{served: after.EngineServed(), targets: after.Targets(), wasServed: before.EngineServed(), containers: before.Targets()}
	served := m.wasServed
	for _, p := range published {
		if p.Via.Index != 0 {
			m.containers[p.Port] = p.To
		}
	}
	same := func(p ruleset.Port, to netip.AddrPort) bool { return m.targets[p] == to }
	old := before.Targets()
	maps.DeleteFunc(old, same)
	was, _ := before.ToWindows()
	now, addrs := after.ToWindows()
	c := containersFlows{moved: was.Minus(now).Union(now.Minus(was)), toWindows: now, addrs: addrs}
	switch {
	case !before.SameLink(after): // and what began before there was a table
		c.afresh = true
	case len(old) > 0 || !slices.Equal(served, m.served):
		// Our rule has kept packets from the ports that engines have just begun to
		// serve.
		m.freed = m.served.Minus(served)
	case c.moved.Empty():
		return nil
	default:
		return c.has
	}
	own := after.Own()
	return func(f conntrack.Flow) bool {
		return (m.has(f) || c.has(f) || c.afresh && lacksMark(f, own)) && !after.Except().Has(portOf(f))
	}
}

// lacksMark reports whether a flow of Linux to one of its own addresses of the LAN was
// sent elsewhere before there was a table, so that its replies do not find their way:
// see nft.Spec. The next client with that source port would be in the same flow.
//
// A flow of Windows to that address, which is Windows' as well, looks the same, and so does
// one of a container that comes back from Windows. Their connections work, and are
// established. A datagram of theirs begins its flow again.
func lacksMark(f conntrack.Flow, own []netip.Addr) bool {
	from, to := f.Original.Src.Addr(), f.Original.Dst.Addr()
	if f.Original.Proto == unix.IPPROTO_TCP && f.Assured {
		return false
	}
	return f.Mark&nft.Mark == 0 && f.Reply.Src.Addr() != to && slices.Contains(own, from) && slices.Contains(own, to)
}

// portOf is the port that a flow was for.
func portOf(f conntrack.Flow) ruleset.Port {
	return ruleset.Port{Proto: f.Original.Proto, Number: f.Original.Dst.Port()}
}

// containersFlows matches the flows of UDP for one of Linux's addresses, to ports in
// moved, that lead to Windows and should not any more, or should and do not. A
// connection of TCP goes on, and one that was not answered has been refused.
type containersFlows struct {
	moved, toWindows ruleset.Ports
	addrs            []netip.Addr
	// afresh says that it is not known what led to Windows before.
	afresh bool
}

func (c containersFlows) has(f conntrack.Flow) bool {
	port := portOf(f)
	led, should := ledToLocalhost(f), c.toWindows.Has(port)
	switch {
	case port.Proto != unix.IPPROTO_UDP || led == should:
		return false
	case led && c.afresh:
		return true
	}
	return c.moved.Has(port) && slices.Contains(c.addrs, f.Original.Dst.Addr())
}

// ledToLocalhost reports whether a flow for another address was sent to 127.0.0.1.
func ledToLocalhost(f conntrack.Flow) bool {
	return f.Reply.Src.Addr() == ruleset.Localhost && !f.Original.Dst.Addr().IsLoopback()
}

// datagrams are the flows of UDP that went past a proxy or from a container to Windows,
// when that has come to an end: for as long as a client sends from its port, its flow
// does not end by itself. Connections of TCP wait for the next daemon.
func datagrams(served ruleset.Ports, published []ruleset.Published) func(conntrack.Flow) bool {
	m := misdirected{served: served, containers: nft.Targets{}}
	for _, p := range published {
		m.containers[p.Port] = p.To
	}
	return func(f conntrack.Flow) bool {
		return f.Original.Proto == unix.IPPROTO_UDP && (m.has(f) || ledToLocalhost(f))
	}
}

// misdirected matches flows from 127.0.0.1 to 127.0.0.1 that lead nowhere: those
// that were sent to where their port is not sent any more, those to the ports in
// freed that were kept from their engine, and those that were sent elsewhere with
// 127.0.0.1 as their source, which nobody elsewhere can answer. What goes through
// a proxy goes on, also where new flows go past it; and so does what somebody's own
// rules send elsewhere.
type misdirected struct {
	served    ruleset.Ports // by engines
	wasServed ruleset.Ports
	targets   nft.Targets // past proxies
	// containers are where packets for a port were or may have been sent past a proxy.
	containers nft.Targets
	freed      ruleset.Ports
}

func (m misdirected) has(f conntrack.Flow) bool {
	self := ruleset.Localhost
	if f.Original.Src.Addr() != self || f.Original.Dst.Addr() != self {
		return false
	}
	port := portOf(f)
	if port.Proto != unix.IPPROTO_TCP && port.Proto != unix.IPPROTO_UDP {
		return false
	}
	switch to, direct := m.targets[port]; {
	case f.Reply.Src.Addr().IsLoopback(): // also where somebody's rule sends it to 127.0.0.53
		return m.freed.Has(port)
	case f.Reply.Dst.Addr() == self:
		return true
	case direct:
		return f.Reply.Src != to
	default:
		return m.containers[port] == f.Reply.Src && !m.served.Has(port) || m.wasServed.Has(port) && !m.served.Has(port)
	}
}
