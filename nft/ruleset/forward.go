package ruleset

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A Bridge is a link with containers behind it.
type Bridge struct {
	Iface
	// Prefixes are the addresses of the link, with their prefix lengths.
	Prefixes []netip.Prefix
}

// Equal reports whether two bridges are the same.
func (b Bridge) Equal(c Bridge) bool {
	return b.Iface == c.Iface && slices.Equal(b.Prefixes, c.Prefixes)
}

// An Obstacle is why packets for a published port cannot bypass the engine's proxy; ""
// if they can.
type Obstacle string

// The obstacles, worded for display.
const (
	NotUnderstood Obstacle = "its rules do not say for certain where it goes"
	NotOnBridge   Obstacle = "its target is not on a bridge here"
	NotEngines    Obstacle = "its rule is not one of a container engine"
	NotForwarded  Obstacle = "other rules drop what is forwarded to it, or may"
	NotAccepted   Obstacle = "other rules drop what is sent to it on 127.0.0.1, or may"
)

// findObstacles sets Via, and Obstacle for the ports that a proxy serves.
//
// Packets to the container start in Linux when they go through a proxy. When they
// bypass it, they are forwarded and meet the rules for that. So this walks a packet to
// each of these ports on from its DNAT, and the reply too: a container that may not
// reach the world can still answer a proxy.
func (rs *Ruleset) findObstacles(published []Published, loopback Iface, bridges []Bridge) {
	if len(bridges) == 0 {
		for i := range published {
			if !published[i].EngineServed {
				published[i].Obstacle = NotOnBridge
			}
		}
		return
	}
	engines := rs.ledTo(*nftables.ChainHookOutput)
	// Packets that bypass the proxy do not meet these rules.
	var closed Ports
	toLinux := FromWindows(loopback)
	toLinux.Hook = *nftables.ChainHookInput
	for _, packet := range []Packet{toLinux, FromLinux(loopback)} {
		w := rs.walk(packet, Sight{Chains: Filters})
		for _, o := range w.outcomes {
			closed = closed.Union(o.Ports)
		}
	}
	var f forwarded
	for i := range published {
		p := &published[i]
		p.Via = bridgeOf(bridges, p.To.Addr())
		switch {
		case p.EngineServed:
		case !p.sure || !p.To.Addr().IsValid() || p.To.Port() == 0:
			p.Obstacle = NotUnderstood
		case p.Via.Index == 0:
			p.Obstacle = NotOnBridge
		case !engines[p.at.chainID]:
			p.Obstacle = NotEngines
		case closed.Has(p.Port):
			p.Obstacle = NotAccepted
		default:
			f.rows = append(f.rows, newRow(p))
		}
	}
	if len(f.rows) == 0 {
		return
	}
	slices.SortFunc(f.rows, func(a, b row) int { return bytes.Compare(a.data[:], b.data[:]) })
	request := Packet{Hook: *nftables.ChainHookForward, Iif: loopback, Src: Localhost, Ports: f.all(), forwarded: &f}
	reply := request
	reply.Iif, reply.Oif, reply.Src, reply.Dst, reply.reply = Iface{}, loopback, netip.Addr{}, Localhost, true
	var stopped Ports
	for _, p := range []Packet{request, reply} {
		w := rs.walk(p, Sight{})
		stopped = stopped.Union(w.doubt)
		for _, o := range w.outcomes {
			stopped = stopped.Union(o.Ports)
		}
	}
	for i, r := range f.rows {
		if stopped.hasKey(uint32(i)) {
			r.published.Obstacle = NotForwarded
		}
	}
}

// ledTo returns the chains reachable from the nat chains at a hook, for any packet. An
// engine with a proxy sends packets from Linux to the machine's other addresses through
// the same chain as arriving packets. A rule that somebody wrote only for arriving
// packets does not mean that a proxy listens on 127.0.0.1.
func (rs *Ruleset) ledTo(hook nftables.ChainHook) map[chainID]bool {
	led := map[chainID]bool{}
	var pending []*chain
	for _, c := range rs.base {
		if c.hook == hook && c.kind == nftables.ChainTypeNAT && c.table != rs.own && !rs.dormant[c.table] {
			pending = append(pending, c)
		}
	}
	lead := func(table tableID, v *expr.Verdict) {
		id := chainID{table, v.Chain}
		if c := rs.chains[id]; c != nil && !led[id] {
			led[id] = true
			pending = append(pending, c)
		}
	}
	for len(pending) > 0 {
		c := pending[0]
		pending = pending[1:]
		rules, _ := rs.rulesOf(c)
		for _, r := range rules {
			exprs, err := r.all(rs.known)
			if err != nil {
				rs.fail(fmt.Errorf("decode rule: %w", err))
			}
			for _, e := range exprs {
				switch x := e.expr.(type) {
				case *expr.Verdict:
					lead(c.table, x)
				case *expr.Lookup:
					s := rs.sets[setID{c.table, x.SetName}]
					if s == nil || x.DestRegister != unix.NFT_REG_VERDICT || !x.IsDestRegSet {
						continue
					}
					rs.readElements(s, mostElements)
					for _, e := range s.elements {
						if e.verdict != nil {
							lead(c.table, e.verdict)
						}
					}
				}
			}
		}
	}
	return led
}

// bridgeOf returns the bridge behind which addr is: the one with the longest prefix, as
// the kernel routes connected networks. If two are equal, it returns none.
func bridgeOf(bridges []Bridge, addr netip.Addr) (via Iface) {
	longest := -1
	for _, b := range bridges {
		for _, p := range b.Prefixes {
			switch {
			case !p.Contains(addr) || p.Bits() < longest:
			case p.Addr() == addr: // the bridge itself
				return Iface{}
			case p.Bits() == longest && via != b.Iface:
				via = Iface{}
			default:
				via, longest = b.Iface, p.Bits()
			}
		}
	}
	return via
}

// forwarded describes a Packet after DNAT: each of its original ports has another
// destination and another link. For a reply these are its source.
//
// In the walk of such a packet, a Ports is not a set of ports but of row numbers. The
// rows are sorted, so that rows with the same address are one span: a ruleset has rules
// for each container, and sets of many spans are costly.
type forwarded struct {
	rows []row
	// known caches the results of where.
	known map[span]map[string]Ports
}

// A row is what differs from port to port, encoded as in the kernel.
type row struct {
	published *Published
	data      [rowLen]byte
}

// The offsets in a row. Protocol and port together are one number.
const (
	rowAddr  = 0
	rowProto = 4
	rowPort  = 5
	rowIndex = 7
	rowName  = 11
	rowLen   = rowName + unix.IFNAMSIZ
)

func newRow(p *Published) row {
	r := row{published: p}
	addr := p.To.Addr().As4()
	copy(r.data[rowAddr:], addr[:])
	r.data[rowProto] = p.Port.Proto
	binary.BigEndian.PutUint16(r.data[rowPort:], p.To.Port())
	binary.NativeEndian.PutUint32(r.data[rowIndex:], uint32(p.Via.Index))
	copy(r.data[rowName:], p.Via.Name)
	return r
}

func (f *forwarded) all() Ports { return Ports{{0, uint32(len(f.rows) - 1)}} }

// where returns the rows that contain data at the offset at. A ruleset compares the
// address of each container, so the results for all values are computed at once.
func (f *forwarded) where(at int, data []byte) match {
	field := span{uint32(at), uint32(at + len(data))}
	if f.known[field] == nil {
		spans := map[string][]span{}
		for i, r := range f.rows {
			v := string(r.data[field.first:field.last])
			spans[v] = append(spans[v], span{uint32(i), uint32(i)})
		}
		answers := make(map[string]Ports, len(spans))
		for v, s := range spans {
			answers[v] = Ports(s).normal()
		}
		if f.known == nil {
			f.known = map[span]map[string]Ports{}
		}
		f.known[field] = answers
	}
	return match{ports: f.known[field][string(data)]}
}

// values returns the different values of n bytes at the offset at.
func (f *forwarded) values(at, n int) (list [][]byte) {
	f.where(at, make([]byte, n)) // fills f.known
	for v := range f.known[span{uint32(at), uint32(at + n)}] {
		list = append(list, []byte(v))
	}
	return list
}

// between returns the rows whose bytes at the offset at, as a number, are in an
// inclusive range.
func (f *forwarded) between(at int, from, to []byte) match {
	if bytes.Equal(from, to) {
		return f.where(at, from)
	}
	var s []span
	for i, r := range f.rows {
		if b := r.data[at : at+len(from)]; bytes.Compare(from, b) <= 0 && bytes.Compare(b, to) <= 0 {
			s = append(s, span{uint32(i), uint32(i)})
		}
	}
	return match{ports: Ports(s).normal()}
}

// fields returns n cells of a row.
func fields(at, n int) []cell {
	cells := make([]cell, n)
	for i := range cells {
		cells[i] = cell{isField, byte(at + i)}
	}
	return cells
}

// run returns how many of the cells are consecutive in a row.
func run(cells []cell) int {
	n := 1
	for n < len(cells) && cells[n].kind == isField && int(cells[n].value) == int(cells[0].value)+n {
		n++
	}
	return n
}
