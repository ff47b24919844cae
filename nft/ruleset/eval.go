package ruleset

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// A branch is the evaluation of a rule for some of its packets: the hit that may
// result, and the registers.
type branch struct {
	hit
	regs registers
}

// eval evaluates one expression. It appends to next the branches that go on to the
// rule's next expression, and to hits what the rule decides.
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
			b.regs.store(x.Register, w.packet.meta(x.Key, w.base.hook))
		} else if w.packet.one != nil && x.Key == expr.MetaKeyMARK {
			w.mark(b, &w.packet.one.Mark, b.regs.load(x.Register, 4))
		}
		keep()
	case *expr.Payload:
		if x.OperationType == expr.PayloadLoad {
			cells := w.packet.payload(x.Base, x.Offset, x.Len)
			b.regs.store(x.DestRegister, cells)
			b.regs.daddr = x.Base == expr.PayloadBaseNetworkHeader && x.Offset == ipDaddr && x.Len == 4
		} else {
			w.strange = true // from here on it may be another packet
		}
		keep()
	case *expr.Ct:
		// Marking a flow does not change the packet, and all zones have the same nat
		// chains. But with another zone the reply may not find the flow.
		if x.SourceRegister && x.Key == expr.CtKeyZONE {
			w.zone(b)
		}
		if x.SourceRegister && x.Key == expr.CtKeyMARK && w.packet.one != nil {
			w.mark(b, &w.packet.one.Flow.Mark, b.regs.load(x.Register, 4))
		}
		if !x.SourceRegister {
			cells := w.packet.ct(x)
			if w.base.priority <= *nftables.ChainPriorityConntrack {
				cells = unknown(maxValue) // conntrack has not seen the packet yet
			}
			b.regs.store(x.Register, cells)
		}
		keep()
	case *expr.Fib:
		b.regs.store(x.Register, w.packet.fib(x))
		keep()
	case *expr.Bitwise:
		b.regs.store(x.DestRegister, bitwise(b.regs.load(x.SourceRegister, int(min(x.Len, maxValue))), x))
		keep()
	case *expr.Cmp:
		m := w.packet.compare(b.regs.load(x.Register, len(x.Data)), x.Op, x.Data)
		b.toAddr = b.toAddr || b.regs.daddr && x.Op == expr.CmpOpEq
		next = b.narrow(m, next)
	case *expr.Range:
		m := w.packet.within(b.regs.load(x.Register, len(x.FromData)), x.FromData, x.ToData)
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
		switch {
		case x.Family == unix.NFPROTO_IPV6:
			keep() // in a table of both families
		case x.Type == expr.NATTypeDestNAT:
			b.outcome = &Outcome{Fate: Translated, To: b.regs.destination(x)}
			if w.packet.one != nil {
				b.outcome = w.packet.translation(Translated, x, b, w.packet.Dst)
			}
			hits = append(hits, b.hit)
		case w.packet.one != nil:
			b.outcome = w.packet.translation(Masked, x, b, w.packet.Src)
			hits = append(hits, b.hit)
		default:
			keep()
		}
	case *expr.Redir:
		b.outcome = &Outcome{Fate: Redirected}
		if w.packet.one != nil {
			b.outcome = w.packet.toOwn(Redirected, &expr.NAT{RegProtoMin: x.RegisterProtoMin, RegProtoMax: x.RegisterProtoMax}, b)
		}
		hits = append(hits, b.hit)
	case *expr.Reject:
		b.outcome = &Outcome{Fate: Dropped}
		hits = append(hits, b.hit)
	case *expr.Objref:
		switch x.Type {
		case unix.NFT_OBJECT_COUNTER, unix.NFT_OBJECT_CT_HELPER, unix.NFT_OBJECT_CT_TIMEOUT:
		case unix.NFT_OBJECT_QUOTA, unix.NFT_OBJECT_LIMIT, unix.NFT_OBJECT_CONNLIMIT:
			b.sure = false
		default:
			w.opaque(b, e.name)
		}
		keep()
	case *expr.Masq:
		if w.packet.one == nil {
			keep()
			break
		}
		b.outcome = w.packet.toOwn(Masked, &expr.NAT{}, b) // its port is the client's
		hits = append(hits, b.hit)
	case *expr.Target:
		if x.Name == "CT" {
			w.zone(b)
		}
		o, ends, known := xtTarget(x)
		if w.packet.one != nil {
			o, ends = w.xtSingle(x, b, o, ends)
		}
		if !known {
			w.opaque(b, e.name)
		}
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

// opaque handles an expression that is not understood: it may match, write to any
// register, or decide.
func (w *walker) opaque(b *branch, name string) {
	switch name {
	case "log", "dup", "last", "secmark":
		return // these let every packet go on
	case "byteorder":
		b.regs = registers{} // only computes
		return
	case "connlimit", "dynset", "exthdr", "hash", "inner", "limit", "numgen", "osf", "quota", "rt", "socket", "tunnel", "xfrm":
		// These match or load. Dynset is here because it can contain limits, and
		// because it fails when its set is full.
	default:
		// Notrack ends up here because it exempts the packet from all NAT.
		w.lost(b.ports.Intersect(w.ports))
	}
	b.sure = false
	b.regs = registers{}
}

// zone records that the flow may be in another conntrack zone.
func (w *walker) zone(b *branch) {
	ports := b.ports.Intersect(w.ports)
	w.zoned = w.zoned.Union(ports)
	w.strange = w.strange || !ports.Empty()
}

// narrow keeps in b the packets for which m holds or may hold.
func (b *branch) narrow(m match, next []branch) []branch {
	b.ports = b.ports.Intersect(m.ports)
	if b.ports.Empty() {
		return next
	}
	b.sure = b.sure && !m.maybe
	return append(next, *b)
}

// lookup follows b into a set or through a map. Each element of a map becomes a branch
// of its own.
func (w *walker) lookup(b *branch, x *expr.Lookup, next []branch, hits []hit) ([]branch, []hit) {
	s := w.rs.sets[setID{w.base.table, x.SetName}]
	if s != nil && s.dynamic && w.base.table == w.rs.own && w.packet.one != nil {
		// Our own sets remember clients and servers. We assume that this is the
		// client's first request.
		return b.narrow(matches(x.Invert), next), hits
	}
	var entries []entry
	known := false
	if s != nil {
		entries, known = w.rs.entriesFor(s, &w.packet, b.regs.load(x.SourceRegister, int(s.keyLen)))
	}
	if !known {
		b.sure = false
		if x.IsDestRegSet {
			b.regs.store(x.DestRegister, unknown(maxValue))
			if x.DestRegister == unix.NFT_REG_VERDICT {
				w.lost(b.ports.Intersect(w.ports))
			}
		}
		return append(next, *b), hits
	}
	toAddr := b.toAddr || b.regs.daddr && !x.Invert
	var found []span
	maybe := false
	rest := slices.Clone(b.ports)
	for _, entry := range entries {
		m := entry.match(&w.packet, &b.regs, x.SourceRegister)
		if m.ports = m.ports.Intersect(rest); m.ports.Empty() {
			continue
		}
		if !x.IsDestRegSet {
			found = append(found, m.ports...)
			maybe = maybe || m.maybe
			continue
		}
		one := *b
		one.ports, one.sure, one.toAddr = m.ports, b.sure && !m.maybe, toAddr
		if !m.maybe {
			rest.remove(m.ports)
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
	m := match{Ports(found).normal(), maybe}
	if x.Invert {
		m = m.not()
	}
	b.toAddr = toAddr
	return b.narrow(m, next), hits
}

// destination returns where a nat expression sends a packet, as far as that is one
// value and not a range.
func (r *registers) destination(x *expr.NAT) netip.AddrPort {
	one := func(from, to uint32, n int) []byte {
		low, ok := values(r.load(from, n))
		if from == 0 || !ok {
			return nil
		}
		if high, ok := values(r.load(to, n)); to != 0 && (!ok || !bytes.Equal(low, high)) {
			return nil
		}
		return low
	}
	var addr netip.Addr
	var port uint16
	if b := one(x.RegAddrMin, x.RegAddrMax, 4); b != nil && !x.Prefix {
		addr = netip.AddrFrom4([4]byte(b))
	}
	if b := one(x.RegProtoMin, x.RegProtoMax, 2); b != nil {
		port = binary.BigEndian.Uint16(b)
	}
	return netip.AddrPortFrom(addr, port)
}

// xtTarget returns what an xtables target does: its outcome, whether it ends the rule,
// and whether the target is known.
func xtTarget(x *expr.Target) (o *Outcome, ends, known bool) {
	switch x.Name {
	case "DNAT":
		to, base := xtRange(x.Info)
		return &Outcome{Fate: Translated, To: to, Base: base}, true, true
	case "REDIRECT":
		return &Outcome{Fate: Redirected}, true, true
	case "REJECT":
		return &Outcome{Fate: Dropped}, true, true
	case "CT":
		// A zone or a helper has no more effect than a mark. Notrack exempts the packet
		// from all NAT.
		return nil, false, !untracked(x.Info)
	case "MASQUERADE", "SNAT", "MARK", "CONNMARK", "LOG", "NFLOG", "TRACE", "TEE", "SET", "TCPMSS", "DSCP", "TOS", "CLASSIFY", "CHECKSUM":
		return nil, false, true
	}
	return nil, false, false
}

// xtRange returns where an xtables NAT target sends a packet, as far as that is one
// address or port. If base is not 0, it is the original port that the returned port
// corresponds to.
func xtRange(info xt.InfoAny) (_ netip.AddrPort, base uint16) {
	var to xt.NatRange
	switch info := info.(type) {
	case *xt.NatRange:
		to = *info
	case *xt.NatRange2:
		to = info.NatRange
		if to.Flags&uint(xt.NatRangeProtoOffset) != 0 {
			base = info.BasePort
		}
	case *xt.NatIPv4MultiRangeCompat:
		if len(*info) == 1 {
			to = xt.NatRange((*info)[0])
		}
	}
	var addr netip.Addr
	if xt.NatRangeFlags(to.Flags)&xt.NatRangeMapIPs != 0 && to.MinIP.Equal(to.MaxIP) {
		addr, _ = netip.AddrFromSlice(to.MinIP)
	}
	if to.MinPort != to.MaxPort && base == 0 {
		to.MinPort = 0 // any of them
	}
	return netip.AddrPortFrom(addr.Unmap(), to.MinPort), base
}

// untracked reports whether the target CT exempts a packet from conntrack, or may. The
// flags are the first word of struct xt_ct_target_info and of its version 1.
func untracked(info xt.InfoAny) bool {
	const notrack = 1 << 0 // XT_CT_NOTRACK of xt_CT.h
	b, ok := info.(*xt.Unknown)
	return !ok || len(*b) < 2 || binary.NativeEndian.Uint16(*b)&notrack != 0
}
