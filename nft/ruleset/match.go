package ruleset

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// A match says for which ports a condition holds, or may hold if maybe is set.
type match struct {
	ports Ports
	maybe bool
}

var (
	holds = match{ports: AllPorts}
	fails = match{}
	may   = match{ports: AllPorts, maybe: true}
)

func matches(b bool) match {
	if b {
		return holds
	}
	return fails
}

// not inverts m. A condition that may hold may also not hold. Outside the ports of a
// maybe it certainly does not hold, but that is not kept.
func (m match) not() match {
	if m.maybe {
		return may
	}
	return match{ports: AllPorts.Minus(m.ports)}
}

func (m match) and(n match) match {
	return match{m.ports.Intersect(n.ports), m.maybe || n.maybe}
}

func (m match) or(n match) match {
	return match{m.ports.Union(n.ports), m.maybe || n.maybe}
}

// compare evaluates a cmp expression on cells.
func (p *Packet) compare(cells []cell, op expr.CmpOp, data []byte) match {
	zero, ones := make([]byte, len(data)), bytes.Repeat([]byte{0xff}, len(data))
	switch op {
	case expr.CmpOpEq:
		return p.equal(cells, data)
	case expr.CmpOpNeq:
		return p.equal(cells, data).not()
	case expr.CmpOpLte:
		return p.within(cells, zero, data)
	case expr.CmpOpGte:
		return p.within(cells, data, ones)
	case expr.CmpOpLt:
		return p.within(cells, data, ones).not()
	case expr.CmpOpGt:
		return p.within(cells, zero, data).not()
	}
	return may
}

// equal returns when cells have the value data.
func (p *Packet) equal(cells []cell, data []byte) match {
	m := holds
	for i := 0; i < len(cells) && i < len(data); i++ {
		switch c := cells[i]; c.kind {
		case isConstant:
			if c.value != data[i] {
				return fails
			}
		case isProto:
			m = m.and(match{ports: protoPorts(data[i], 0, 0xffff)})
		case isPortHigh:
			first, last := uint16(data[i])<<8, uint16(data[i])<<8|0xff
			if i+1 < len(cells) && i+1 < len(data) && cells[i+1].kind == isPortLow {
				first |= uint16(data[i+1])
				last = first
				i++
			}
			m = m.and(match{ports: bothPorts(first, last)})
		case isField:
			n := min(run(cells[i:]), len(data)-i)
			m = m.and(p.forwarded.where(int(c.value), data[i:i+n]))
			i += n - 1
		default:
			m.maybe = true
		}
	}
	return m
}

// within returns when cells, as a number, are between from and to.
func (p *Packet) within(cells []cell, from, to []byte) match {
	if b, ok := values(cells); ok {
		return matches(bytes.Compare(from, b) <= 0 && bytes.Compare(b, to) <= 0)
	}
	if len(cells) > 0 && cells[0].kind == isField && run(cells) == len(cells) && len(from) == len(cells) && len(to) == len(cells) {
		return p.forwarded.between(int(cells[0].value), from, to)
	}
	if len(cells) == 2 && cells[0].kind == isPortHigh && cells[1].kind == isPortLow && len(from) == 2 && len(to) == 2 {
		return match{ports: bothPorts(binary.BigEndian.Uint16(from), binary.BigEndian.Uint16(to))}
	}
	if len(cells) == 1 && cells[0].kind == isProto && len(from) == 1 && len(to) == 1 {
		m := fails
		for _, p := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			if from[0] <= p && p <= to[0] {
				m = m.or(match{ports: protoPorts(p, 0, 0xffff)})
			}
		}
		return m
	}
	return may
}

// bitwise computes (cells & mask) ^ xor. A port or a protocol stays known where all its
// bits stay the same.
func bitwise(cells []cell, x *expr.Bitwise) []cell {
	out := slices.Clone(cells)
	for i := range out {
		if i >= len(x.Mask) || i >= len(x.Xor) {
			out[i] = cell{} // for example a shift
			continue
		}
		switch mask, xor := x.Mask[i], x.Xor[i]; {
		case out[i].kind == isConstant:
			out[i].value = out[i].value&mask ^ xor
		case mask == 0:
			out[i] = cell{isConstant, xor}
		case mask != 0xff || xor != 0:
			out[i] = cell{}
		}
	}
	return out
}

// xtMatch evaluates an xtables match.
func (p *Packet) xtMatch(x *expr.Match) match {
	if p.one != nil {
		if m, known := p.xtSingle(x); known {
			return m
		}
	}
	switch info := x.Info.(type) {
	case *xt.Comment:
		return holds
	case *xt.Tcp:
		m := p.to(unix.IPPROTO_TCP, info.DstPorts[0], info.DstPorts[1])
		if info.InvFlags&xt.TcpInvDestPorts != 0 && !m.maybe {
			m.ports = p.to(unix.IPPROTO_TCP, 0, 0xffff).ports.Minus(m.ports)
		}
		// The first packet is a SYN, but its source port and options are not known.
		m.maybe = m.maybe || info.SrcPorts != [2]uint16{0, 0xffff} || info.Option != 0 || info.FlagsMask != 0 ||
			info.InvFlags&^xt.TcpInvDestPorts != 0
		return m
	case *xt.Udp:
		m := p.to(unix.IPPROTO_UDP, info.DstPorts[0], info.DstPorts[1])
		if info.InvFlags&xt.UdpInvDestPorts != 0 && !m.maybe {
			m.ports = p.to(unix.IPPROTO_UDP, 0, 0xffff).ports.Minus(m.ports)
		}
		m.maybe = m.maybe || info.SrcPorts != [2]uint16{0, 0xffff} || info.InvFlags&^xt.UdpInvDestPorts != 0
		return m
	case *xt.AddrTypeV1:
		if info.Source != 0 {
			return may
		}
		m := matches(info.Dest&(1<<p.addrType()) != 0)
		if info.Flags&^xtAddrTypeInvertDest != 0 { // or limited to an interface
			return may
		}
		if info.Flags&xtAddrTypeInvertDest != 0 {
			m = m.not()
		}
		return m
	case *xt.ConntrackMtinfo1:
		return p.ctState(&info.ConntrackMtinfoBase, uint16(info.StateMask))
	case *xt.ConntrackMtinfo2:
		return p.ctState(&info.ConntrackMtinfoBase, info.StateMask)
	case *xt.ConntrackMtinfo3:
		return p.ctState(&info.ConntrackMtinfoBase, info.StateMask)
	case *xt.Unknown:
		if x.Name == "multiport" && x.Rev == 1 {
			return p.multiport(*info)
		}
	}
	return may
}

// ctState evaluates a match of nothing but the conntrack state. Its bits are those of
// nftables.
func (p *Packet) ctState(info *xt.ConntrackMtinfoBase, states uint16) match {
	if xt.ConntrackFlags(info.MatchFlags) != xt.ConntrackState {
		return may
	}
	is := uint16(expr.CtStateBitNEW)
	switch {
	case p.one != nil:
		is = p.xtState()
	case p.reply:
		is = uint16(expr.CtStateBitESTABLISHED) | xtStateDNAT | xtStateSNAT
	case p.forwarded != nil:
		is |= xtStateDNAT
	}
	has := states&is != 0
	return matches(has != (info.InvertFlags&uint16(xt.ConntrackState) != 0))
}

const (
	xtAddrTypeInvertDest = 0x2  // XT_ADDRTYPE_INVERT_DEST of xt_addrtype.h
	xtStateSNAT          = 0x40 // XT_CONNTRACK_STATE_SNAT of xt_conntrack.h
	xtStateDNAT          = 0x80 // XT_CONNTRACK_STATE_DNAT
)

// multiport evaluates xt_multiport_v1: one byte of flags, one of count, 15 ports, 15
// bytes that say whether a port begins a range, one byte that inverts. The CNI plugin
// portmap writes it.
func (p *Packet) multiport(b []byte) match {
	const slots, portsAt, rangesAt, invertAt = 15, 2, 32, 47
	if len(b) <= invertAt || b[0] != 1 /* XT_MULTIPORT_DESTINATION */ || int(b[1]) > slots {
		return may
	}
	port := func(i int) uint16 { return binary.NativeEndian.Uint16(b[portsAt+2*i:]) }
	m := fails
	for i := 0; i < int(b[1]); i++ {
		first := port(i)
		last := first
		if b[rangesAt+i] != 0 && i+1 < int(b[1]) {
			i++
			last = port(i)
		}
		m = m.or(p.toEither(first, last))
	}
	if b[invertAt] != 0 {
		m = m.not()
	}
	return m
}
