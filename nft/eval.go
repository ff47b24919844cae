package nft

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// A branch is the evaluation of a rule for some of its packets: the hit that it
// may become, and the registers.
type branch struct {
	hit
	regs registers
}

// eval evaluates one expression. It appends to next what goes on to the rule's
// next expression, and to hits what the rule decides.
func (w *walker) eval(b *branch, e namedExpr, next []branch, hits []hit) ([]branch, []hit) {
	keep := func() { next = append(next, *b) }
	switch x := e.expr.(type) {
	case *expr.Counter:
		keep()
	case *expr.Immediate:
		b.regs.store(x.Register, constant(x.Data))
		keep()
	case *expr.Meta:
		if !x.SourceRegister {
			b.regs.store(x.Register, w.packet.meta(x.Key))
		}
		keep()
	case *expr.Payload:
		if x.OperationType == expr.PayloadLoad {
			cells := w.packet.payload(x.Base, x.Offset, x.Len)
			b.regs.store(x.DestRegister, cells)
			b.regs.daddr = x.Base == expr.PayloadBaseNetworkHeader && x.Offset == ipDaddr && x.Len == 4
		}
		keep()
	case *expr.Ct:
		if !x.SourceRegister {
			b.regs.store(x.Register, w.packet.ct(x.Key))
		}
		keep()
	case *expr.Fib:
		b.regs.store(x.Register, w.packet.fib(x))
		keep()
	case *expr.Bitwise:
		b.regs.store(x.DestRegister, bitwise(b.regs.load(x.SourceRegister, int(x.Len)), x))
		keep()
	case *expr.Cmp:
		m := compare(b.regs.load(x.Register, len(x.Data)), x.Op, x.Data)
		b.toAddr = b.toAddr || b.regs.daddr && x.Op == expr.CmpOpEq
		next = b.narrow(m, next)
	case *expr.Range:
		m := within(b.regs.load(x.Register, len(x.FromData)), x.FromData, x.ToData)
		if x.Op == expr.CmpOpNeq {
			m = m.not()
		}
		next = b.narrow(m, next)
	case *expr.Match:
		next = b.narrow(w.packet.xtMatch(x), next)
	case *expr.Lookup:
		return w.lookup(b, x, next, hits)
	case *expr.Verdict:
		b.verdict = x
		hits = append(hits, b.hit)
	case *expr.NAT:
		if x.Type == expr.NATTypeDestNAT {
			b.outcome = &Outcome{Fate: Translated, To: b.regs.destination(x)}
			hits = append(hits, b.hit)
		} else {
			keep()
		}
	case *expr.Redir:
		b.outcome = &Outcome{Fate: Redirected}
		hits = append(hits, b.hit)
	case *expr.Masq:
		keep()
	case *expr.Target:
		o, ends, known := xtTarget(x)
		b.sure = b.sure && known
		if ends {
			b.outcome = o
			hits = append(hits, b.hit)
		} else {
			keep()
		}
	default:
		w.opaque(b, e.name)
		keep()
	}
	return next, hits
}

// opaque is an expression that is not understood: it may be a match, or write
// to any register.
func (w *walker) opaque(b *branch, name string) {
	switch name {
	case "log", "notrack", "objref", "dynset", "dup", "last", "flow_offload", "secmark", "exthdr":
		// They let every packet go on, or (exthdr) only load. What is loaded is
		// not known.
		if name == "exthdr" {
			b.regs = registers{}
		}
		return
	}
	b.sure = false
	b.regs = registers{}
}

// narrow leaves in b the packets for which m holds, or may.
func (b *branch) narrow(m match, next []branch) []branch {
	b.ports = b.ports.Intersect(m.ports)
	if b.ports.Empty() {
		return next
	}
	b.sure = b.sure && !m.maybe
	return append(next, *b)
}

// lookup follows b into a set, or through a map: there each element is a branch
// of its own.
func (w *walker) lookup(b *branch, x *expr.Lookup, next []branch, hits []hit) ([]branch, []hit) {
	s := w.rs.setOf(x, w.table)
	if s == nil {
		b.sure = false
		if x.IsDestRegSet {
			b.regs.store(x.DestRegister, unknown(maxValue))
			if x.DestRegister == unix.NFT_REG_VERDICT {
				w.doubt = w.doubt.Union(b.ports)
			}
		}
		return append(next, *b), hits
	}
	toAddr := b.toAddr || b.regs.daddr && !x.Invert
	found := match{}
	rest := b.ports
	for entry := range s.entries() {
		m := entry.match(&b.regs, x.SourceRegister)
		if m.ports = m.ports.Intersect(rest); m.ports.Empty() {
			continue
		}
		if !x.IsDestRegSet {
			found = found.or(m)
			continue
		}
		one := *b
		one.ports, one.sure, one.toAddr = m.ports, b.sure && !m.maybe, toAddr
		if !m.maybe {
			rest = rest.Minus(m.ports)
		}
		switch {
		case entry.verdict != nil:
			one.verdict = entry.verdict
			hits = append(hits, one.hit)
		default:
			one.regs.store(x.DestRegister, constant(entry.value))
			next = append(next, one)
		}
	}
	if x.IsDestRegSet {
		return next, hits
	}
	if x.Invert {
		found = found.not()
	}
	b.toAddr = toAddr
	return b.narrow(found, next), hits
}

// destination is where a nat expression sends a packet.
func (r *registers) destination(x *expr.NAT) netip.AddrPort {
	var addr netip.Addr
	if x.RegAddrMin != 0 {
		if b, ok := values(r.load(x.RegAddrMin, 4)); ok {
			addr = netip.AddrFrom4([4]byte(b))
		}
	}
	if x.RegProtoMin != 0 {
		if b, ok := values(r.load(x.RegProtoMin, 2)); ok {
			return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b))
		}
	}
	return netip.AddrPortFrom(addr, 0)
}

// xtTarget is what a target of xtables does: whether it ends the rule, with
// what outcome, and whether it is known to.
func xtTarget(x *expr.Target) (o *Outcome, ends, known bool) {
	switch x.Name {
	case "DNAT":
		o = &Outcome{Fate: Translated}
		var lo, hi []byte
		var port uint16
		switch info := x.Info.(type) {
		case *xt.NatRange:
			lo, hi, port = info.MinIP, info.MaxIP, info.MinPort
		case *xt.NatRange2:
			lo, hi, port = info.MinIP, info.MaxIP, info.MinPort
			if info.Flags&uint(xt.NatRangeProtoOffset) != 0 {
				o.Base = info.BasePort
			}
		case *xt.NatIPv4MultiRangeCompat:
			if len(*info) == 1 {
				lo, hi, port = (*info)[0].MinIP, (*info)[0].MaxIP, (*info)[0].MinPort
			}
		}
		if addr, ok := netip.AddrFromSlice(lo); ok && bytes.Equal(lo, hi) {
			o.To = netip.AddrPortFrom(addr.Unmap(), port)
		}
		return o, true, true
	case "REDIRECT":
		return &Outcome{Fate: Redirected}, true, true
	case "REJECT":
		return &Outcome{Fate: Dropped}, true, true
	case "MASQUERADE", "SNAT", "MARK", "CONNMARK", "CT", "LOG", "NFLOG", "TRACE", "TEE", "SET", "TCPMSS", "DSCP", "TOS", "CLASSIFY", "CHECKSUM":
		return nil, false, true
	}
	return nil, false, false
}
