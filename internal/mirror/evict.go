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

// evictions returns which flows to reset now that the table before was replaced by after;
// nil: none. before has no chains if there was no table of ours.
//
// A conntrack entry keeps the NAT of its first packet for life. A UDP client with a fixed
// source port that began before our rule was there would be sent to the container for as
// long as it keeps sending, and the retransmissions of a TCP SYN match the entry of the
// first one. Without its entry, the next packet starts a new flow and meets the rule.
//
// Most changes are published ports, which evict nothing. Walking a hundred thousand
// connections takes time.
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
	case !before.SameLink(after): // including what began before there was a table
		c.afresh = true
	case len(old) > 0 || !slices.Equal(served, m.served):
		// Our rule has kept these packets from ports that engines have just begun to serve.
		m.freed = m.served.Minus(served)
	case c.moved.Empty():
		return nil
	default:
		return c.has
	}
	own := after.Own()
	return func(f conntrack.Flow) bool {
		return (m.has(f) || c.has(f) || c.afresh && (lacksMark(f, own) || isUnanswered(f))) && !after.Except().Has(portOf(f))
	}
}

// isUnanswered reports whether nobody has answered a client of localhost yet. Conntrack keeps such
// a flow for two minutes. Each SYN with the same ports renews it, and the kernel evaluates
// no nat chain for it: a closed port would not refuse.
func isUnanswered(f conntrack.Flow) bool {
	return f.Original.Proto == unix.IPPROTO_TCP && !f.Replied && f.Reply.Src.Addr() == ruleset.Localhost
}

// lacksMark reports whether a flow from Linux to one of its own LAN addresses was
// redirected before there was a table. Its replies then get lost: see nft.Spec. The next
// client with that source port would match the same flow.
//
// A flow from Windows to that address, which Windows has too, looks the same, and so does a
// flow from a container that comes back from Windows. Their TCP connections work and are
// established, so they are kept. Their UDP flows are reset, and the next datagram starts
// them again.
func lacksMark(f conntrack.Flow, own []netip.Addr) bool {
	from, to := f.Original.Src.Addr(), f.Original.Dst.Addr()
	if f.Original.Proto == unix.IPPROTO_TCP && f.Assured {
		return false
	}
	return f.Mark&nft.Mark == 0 && f.Reply.Src.Addr() != to && slices.Contains(own, from) && slices.Contains(own, to)
}

// portOf returns the destination port of a flow.
func portOf(f conntrack.Flow) ruleset.Port {
	return ruleset.Port{Proto: f.Original.Proto, Number: f.Original.Dst.Port()}
}

// containersFlows matches UDP flows to one of Linux's addresses and a port in moved that
// lead to Windows and should not any more, or the reverse. TCP connections continue, and
// unanswered ones have been refused.
type containersFlows struct {
	moved, toWindows ruleset.Ports
	addrs            []netip.Addr
	// afresh says that it is unknown which ports led to Windows before.
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

// ledToLocalhost reports whether a flow to another address was sent to 127.0.0.1.
func ledToLocalhost(f conntrack.Flow) bool {
	return f.Reply.Src.Addr() == ruleset.Localhost && !f.Original.Dst.Addr().IsLoopback()
}

// datagrams matches the UDP flows that went past a proxy, or from a container to Windows,
// when that path ends. Such a flow does not end by itself while its client keeps sending
// from the same port. TCP connections wait for the next daemon.
func datagrams(served ruleset.Ports, published []ruleset.Published) func(conntrack.Flow) bool {
	m := misdirected{served: served, containers: nft.Targets{}}
	for _, p := range published {
		m.containers[p.Port] = p.To
	}
	return func(f conntrack.Flow) bool {
		return f.Original.Proto == unix.IPPROTO_UDP && (m.has(f) || ledToLocalhost(f))
	}
}

// misdirected matches flows from 127.0.0.1 to 127.0.0.1 that lead nowhere: flows that were
// sent to a place that their port no longer leads to, flows to ports in freed that were
// kept from their engine, and flows that were redirected with the source 127.0.0.1, which
// nobody else can answer. Flows through a proxy continue, even if new flows go past it. So
// do flows that others' own rules redirect.
type misdirected struct {
	served    ruleset.Ports // ports that engines serve
	wasServed ruleset.Ports
	targets   nft.Targets // ports sent past proxies
	// containers are where packets for a port were, or may have been, sent past a proxy.
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
	case f.Reply.Src.Addr().IsLoopback(): // also if another rule sends it to 127.0.0.53
		return m.freed.Has(port)
	case f.Reply.Dst.Addr() == self:
		return true
	case direct:
		return f.Reply.Src != to
	default:
		return m.containers[port] == f.Reply.Src && !m.served.Has(port) || m.wasServed.Has(port) && !m.served.Has(port)
	}
}
