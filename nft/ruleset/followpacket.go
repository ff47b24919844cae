package ruleset

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// What rules see of a single packet, beyond what they see of a Packet.

// single returns the one port of p.
func (p *Packet) single() (port Port) {
	for port = range p.Ports.All() {
		break
	}
	return port
}

// typeOf returns the type of an address (unix.RTN_*).
func (p *Packet) typeOf(a netip.Addr) uint32 {
	if p.one.Local != nil && p.one.Local(a) {
		return unix.RTN_LOCAL
	}
	return unix.RTN_UNICAST
}

// The TCP flags, and their offset in the TCP header.
const (
	tcpFlags = 13
	tcpSYN   = 0x02
	tcpACK   = 0x10
)

// flags returns the TCP flags of p if it is one of the first packets of a connection.
func (p *Packet) flags() (flags byte, known bool) {
	switch {
	case p.single().Proto != unix.IPPROTO_TCP || p.one.Later:
		return 0, false
	case p.one.Reply:
		return tcpSYN | tcpACK, true
	}
	return tcpSYN, true
}

// transport returns a TCP or UDP header. offset and length are the part that a rule
// loads.
func (p *Packet) transport(offset, length int) []cell {
	header := unknown(20)
	server, client := 2, 0 // where the ports are
	if p.one.Reply {
		server, client = client, server
	}
	p.one.sawClient = p.one.sawClient || offset < client+2 && client < offset+length
	copy(header[server:], constant(binary.BigEndian.AppendUint16(nil, p.single().Number)))
	copy(header[client:], constant(binary.BigEndian.AppendUint16(nil, p.one.client)))
	if flags, ok := p.flags(); ok {
		header[tcpFlags] = cell{isConstant, flags}
	}
	return header
}

func (m Mark) cells() []cell {
	if m.Unknown {
		return unknown(4)
	}
	return constant(binary.NativeEndian.AppendUint32(nil, m.Value))
}

// mark sets m to the value in cells. If that is not certain to happen, m becomes
// unknown.
func (w *walker) mark(b *branch, m *Mark, cells []cell) {
	here := b.ports.Intersect(w.ports)
	if here.Empty() || m == &w.packet.one.Flow.Mark && w.beforeConntrack() {
		return
	}
	sure := b.sure && w.on.sure && here.Intersect(w.doubt).Empty() && here.Intersect(w.left).Empty()
	value, ok := values(cells)
	if !sure || !ok {
		*m = Mark{Unknown: true}
		return
	}
	*m = Mark{Value: binary.NativeEndian.Uint32(value)}
}

// beforeConntrack reports whether the packet has no flow yet, so that no rule can mark
// the flow. A packet that arrives on lo has the flow with which it left.
func (w *walker) beforeConntrack() bool {
	hook := w.packet.Hook
	return w.base.priority < *nftables.ChainPriorityConntrack && w.packet.Iif.Name != "lo" &&
		(hook == *nftables.ChainHookPrerouting || hook == *nftables.ChainHookOutput)
}

// answered reports whether conntrack has seen both directions of the flow.
func (s *Single) answered() bool { return s.Reply || s.Later }

// singleCt returns what a ct expression loads.
func (p *Packet) singleCt(x *expr.Ct) []cell {
	number := func(n uint32) []cell { return constant(binary.NativeEndian.AppendUint32(nil, n)) }
	one := p.one
	switch x.Key {
	case expr.CtKeySTATE:
		if one.answered() {
			return number(expr.CtStateBitESTABLISHED)
		}
		return number(expr.CtStateBitNEW)
	case expr.CtKeyDIRECTION:
		if one.Reply {
			return constant([]byte{1})
		}
		return constant([]byte{0})
	case expr.CtKeySTATUS:
		return number(one.status())
	case expr.CtKeyMARK:
		return one.Flow.Mark.cells()
	case expr.CtKeyPROTODST:
		if x.Direction == 0 {
			return constant(binary.BigEndian.AppendUint16(nil, one.Flow.Dst.Port()))
		}
	case expr.CtKeyDST, expr.CtKeyDSTIP:
		if x.Direction == 0 {
			return p.addr(one.Flow.Dst.Addr(), false)
		}
	case expr.CtKeySRC, expr.CtKeySRCIP:
		if x.Direction == 0 {
			return p.addr(one.Flow.Src, false)
		}
	}
	return unknown(maxValue)
}

// status returns the flow's status bits: enum ip_conntrack_status in
// nf_conntrack_common.h.
func (s *Single) status() (bits uint32) {
	const seen, assured, confirmed, snat, snatDone = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 7
	for _, b := range []struct {
		bit uint32
		is  bool
	}{
		{seen, s.answered()}, {assured, s.Later}, {confirmed, s.Flow.confirmed || s.answered()},
		{snat, s.Flow.From != s.Flow.Src}, {snatDone, s.Flow.SrcDone},
		{ctStatusDNAT, s.Flow.To != s.Flow.Dst}, {ctStatusDNATDone, s.Flow.DstDone},
	} {
		if b.is {
			bits |= b.bit
		}
	}
	return bits
}

// xtState returns the state in the form of xt_conntrack.
func (p *Packet) xtState() uint16 {
	is := uint16(expr.CtStateBitNEW)
	if p.one.answered() {
		is = uint16(expr.CtStateBitESTABLISHED)
	}
	if f := p.one.Flow; f.To != f.Dst {
		is |= xtStateDNAT
	}
	if f := p.one.Flow; f.From != f.Src {
		is |= xtStateSNAT
	}
	return is
}

// translation returns the outcome of a nat expression. What the expression does not
// name stays the same.
func (p *Packet) translation(fate Fate, x *expr.NAT, b *branch, addr netip.Addr) *Outcome {
	to := b.regs.destination(x)
	if x.RegAddrMin != 0 {
		addr = to.Addr()
	}
	if x.RegProtoMin != 0 && to.Port() == 0 && fate != Masked {
		addr = netip.Addr{} // without the port, the target is not known
	}
	return &Outcome{Fate: fate, To: netip.AddrPortFrom(addr, to.Port())}
}

// toOwn returns the outcome of a translation to an address of this machine. If there is
// no such address, the kernel drops the packet.
func (p *Packet) toOwn(fate Fate, x *expr.NAT, b *branch) *Outcome {
	if !p.one.Own.IsValid() {
		return &Outcome{Fate: Dropped}
	}
	return p.translation(fate, x, b, p.one.Own)
}

// xtSingle evaluates an xtables match for a single packet, if possible.
func (p *Packet) xtSingle(x *expr.Match) (m match, known bool) {
	switch info := x.Info.(type) {
	case *xt.Tcp:
		m := p.xtPorts(unix.IPPROTO_TCP, info.SrcPorts, info.InvFlags&xt.TcpInvSrcPorts != 0, info.DstPorts, info.InvFlags&xt.TcpInvDestPorts != 0)
		flags, known := p.flags()
		switch is := matches(flags&info.FlagsMask == info.FlagsCmp); {
		case info.FlagsMask == 0:
		case !known:
			m = m.and(may)
		case info.InvFlags&xt.TcpInvFlags != 0:
			m = m.and(is.not())
		default:
			m = m.and(is)
		}
		if info.Option != 0 {
			m = m.and(may)
		}
		return m, true
	case *xt.Udp:
		return p.xtPorts(unix.IPPROTO_UDP, info.SrcPorts, info.InvFlags&xt.UdpInvSrcPorts != 0, info.DstPorts, info.InvFlags&xt.UdpInvDestPorts != 0), true
	case *xt.AddrTypeV1:
		return p.xtAddrType(info)
	case *xt.Unknown:
		if b := []byte(*info); len(b) >= 9 && x.Rev == 1 && (x.Name == "mark" || x.Name == "connmark") {
			// struct xt_mark_mtinfo1 and xt_connmark_mtinfo1 have the same layout.
			mark := p.one.Mark
			if x.Name == "connmark" {
				mark = p.one.Flow.Mark
			}
			if mark.Unknown {
				return may, true
			}
			return matches((mark.Value&binary.NativeEndian.Uint32(b[4:]) == binary.NativeEndian.Uint32(b)) != (b[8] != 0)), true
		}
	}
	return m, false
}

// xtPorts matches the ports.
func (p *Packet) xtPorts(proto byte, src [2]uint16, notSrc bool, dst [2]uint16, notDst bool) match {
	port := p.single()
	if port.Proto != proto {
		return fails
	}
	in := func(of [2]uint16, not, server bool) match {
		is := of == [2]uint16{0, 0xffff} || server && of[0] <= port.Number && port.Number <= of[1] || !server && p.clientIn(of[0], of[1])
		return matches(is != not)
	}
	return in(src, notSrc, p.one.Reply).and(in(dst, notDst, !p.one.Reply))
}

// clientIn reports whether the client's port is in the range.
func (p *Packet) clientIn(first, last uint16) bool {
	p.one.sawClient = true
	return first <= p.one.client && p.one.client <= last
}

// xtAddrType matches the types of both addresses.
func (p *Packet) xtAddrType(info *xt.AddrTypeV1) (m match, known bool) {
	const invertSource = 0x1 // XT_ADDRTYPE_INVERT_SOURCE of xt_addrtype.h
	if info.Flags&^(invertSource|xtAddrTypeInvertDest) != 0 {
		return may, true // limited to an interface
	}
	is := func(types uint16, a netip.Addr, not bool) bool {
		return types == 0 || (types&(1<<p.typeOf(a)) != 0) != not
	}
	return matches(is(info.Source, p.Src, info.Flags&invertSource != 0) && is(info.Dest, p.Dst, info.Flags&xtAddrTypeInvertDest != 0)), true
}

// xtSingle returns what an xtables target does to a single packet, if that is more than
// what it does to a Packet. Otherwise it returns o and ends.
func (w *walker) xtSingle(x *expr.Target, b *branch, o *Outcome, ends bool) (*Outcome, bool) {
	one := w.packet.one
	var info []byte
	if u, ok := x.Info.(*xt.Unknown); ok {
		info = *u
	}
	word := func(i int) uint32 { return binary.NativeEndian.Uint32(info[4*i:]) }
	change := func(to *Mark, from Mark, keep, flip uint32) {
		if from.Unknown {
			w.mark(b, to, unknown(4))
		} else {
			w.mark(b, to, Mark{Value: from.Value&keep ^ flip}.cells())
		}
	}
	switch {
	case x.Name == "MASQUERADE":
		return w.packet.toOwn(Masked, &expr.NAT{}, b), true
	case x.Name == "REDIRECT":
		to, _ := xtRange(x.Info)
		o := w.packet.toOwn(Redirected, &expr.NAT{}, b)
		o.To = netip.AddrPortFrom(o.To.Addr(), to.Port())
		return o, true
	case x.Name == "SNAT":
		to, _ := xtRange(x.Info)
		return &Outcome{Fate: Masked, To: to}, true
	case x.Name == "MARK" && x.Rev == 2 && len(info) >= 8:
		change(&one.Mark, one.Mark, ^word(1), word(0))
	case x.Name == "CONNMARK" && x.Rev == 1 && len(info) >= 13:
		w.connmark(b, info, info[12])
	case x.Name == "CONNMARK" && x.Rev == 2 && len(info) >= 15 && info[13] == 0: // no shift
		w.connmark(b, info, info[14])
	case x.Name == "MARK":
		w.mark(b, &one.Mark, unknown(4))
	case x.Name == "CONNMARK":
		w.mark(b, &one.Mark, unknown(4))
		w.mark(b, &one.Flow.Mark, unknown(4))
	}
	return o, ends
}

// connmark applies struct xt_connmark_tginfo1, or the beginning of xt_connmark_tginfo2:
// three words, then the mode.
func (w *walker) connmark(b *branch, info []byte, mode byte) {
	const set, save, restore = 0, 1, 2
	word := func(i int) uint32 { return binary.NativeEndian.Uint32(info[4*i:]) }
	ctmark, ctmask, nfmask := word(0), word(1), word(2)
	packet, flow := &w.packet.one.Mark, &w.packet.one.Flow.Mark
	is := *flow
	is.Unknown = is.Unknown || mode != set && packet.Unknown
	to := flow
	switch mode {
	case set:
		is.Value = flow.Value&^ctmask ^ ctmark
	case save:
		is.Value = flow.Value&^ctmask ^ packet.Value&nfmask
	case restore:
		to, is.Value = packet, packet.Value&^nfmask^flow.Value&ctmask
	default:
		return
	}
	w.mark(b, to, is.cells())
}
