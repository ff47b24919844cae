package ruleset

import (
	"encoding/binary"
	"math"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A cell is one byte of what a rule has loaded. It is constant, unknown, part of the
// protocol or port that the walk enumerates, or part of a value that depends on these.
type cell struct {
	kind  cellKind
	value byte // the constant, or a field's offset in the row
}

type cellKind uint8

const (
	isUnknown cellKind = iota
	isConstant
	isProto
	isPortHigh
	isPortLow
	isField // of a row of Packet.forwarded
)

func constant(b []byte) []cell {
	cells := make([]cell, len(b))
	for i, v := range b {
		cells[i] = cell{isConstant, v}
	}
	return cells
}

func unknown(n int) []cell { return make([]cell, n) }

// values returns the bytes of cells if all of them are constant.
func values(cells []cell) (b []byte, ok bool) {
	b = make([]byte, len(cells))
	for i, c := range cells {
		if c.kind != isConstant {
			return nil, false
		}
		b[i] = c.value
	}
	return b, true
}

// maxValue is the size of a register's largest value.
const maxValue = 16

// registers are the registers of nf_tables: four of 16 bytes, or the same as sixteen of
// 4 bytes.
type registers struct {
	cells [4 * maxValue]cell
	// daddr says that the last load was the whole destination address.
	daddr bool
}

// at returns where a register begins, or -1.
func (r *registers) at(reg uint32) int {
	switch {
	case reg >= unix.NFT_REG_1 && reg <= unix.NFT_REG_4:
		return int(reg-unix.NFT_REG_1) * maxValue
	case reg >= unix.NFT_REG32_00 && reg <= unix.NFT_REG32_15:
		return int(reg-unix.NFT_REG32_00) * 4
	}
	return -1
}

// store fills a register. It pads the last word with zeros as the kernel does
// (nft_data_copy and nft_reg_store8 in nf_tables.h).
func (r *registers) store(reg uint32, cells []cell) {
	at := r.at(reg)
	if at < 0 {
		return
	}
	r.daddr = false
	n := copy(r.cells[at:], cells)
	for ; n%4 != 0; n++ {
		r.cells[at+n] = cell{kind: isConstant}
	}
}

func (r *registers) load(reg uint32, n int) []cell {
	at := r.at(reg)
	if at < 0 || n < 0 || at+n > len(r.cells) {
		return unknown(max(n, 0))
	}
	return r.cells[at : at+n]
}

// meta returns what a meta expression loads at a hook.
func (p *Packet) meta(key expr.MetaKey, hook nftables.ChainHook) []cell {
	// The outgoing link is known once the packet is routed.
	routed := p.forwarded != nil && hook != *nftables.ChainHookPrerouting
	switch key {
	case expr.MetaKeyIIF:
		if p.reply {
			return fields(rowIndex, 4)
		}
		return p.Iif.number()
	case expr.MetaKeyOIF:
		if routed && !p.reply {
			return fields(rowIndex, 4)
		}
		return p.Oif.number()
	case expr.MetaKeyIIFNAME:
		if p.reply {
			return fields(rowName, unix.IFNAMSIZ)
		}
		return p.Iif.text()
	case expr.MetaKeyOIFNAME:
		if routed && !p.reply {
			return fields(rowName, unix.IFNAMSIZ)
		}
		return p.Oif.text()
	case expr.MetaKeyL4PROTO:
		return p.proto()
	case expr.MetaKeyNFPROTO:
		return constant([]byte{unix.NFPROTO_IPV4})
	case expr.MetaKeyPROTOCOL:
		return constant(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP))
	case expr.MetaKeyMARK:
		if p.one != nil {
			return p.one.Mark.cells()
		}
	}
	return unknown(maxValue)
}

func (i Iface) number() []cell {
	return constant(binary.NativeEndian.AppendUint32(nil, uint32(i.Index)))
}

func (i Iface) text() []cell {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, i.Name)
	return constant(b)
}

// The offsets of the addresses in an IPv4 header.
const (
	ipSaddr = 12
	ipDaddr = 16
)

// payload returns what a payload expression loads.
func (p *Packet) payload(base expr.PayloadBase, offset, length uint32) []cell {
	if offset > math.MaxUint8 || length > maxValue {
		return unknown(maxValue)
	}
	var header []cell
	switch base {
	case expr.PayloadBaseNetworkHeader:
		header = unknown(20)
		header[0] = cell{isConstant, 0x45} // the version, without options
		header[9] = p.proto()[0]
		copy(header[ipSaddr:], p.addr(p.Src, p.reply))
		copy(header[ipDaddr:], p.addr(p.Dst, p.forwarded != nil && !p.reply))
	case expr.PayloadBaseTransportHeader:
		header = append(unknown(2), p.port()...)
		switch {
		case p.one != nil:
			header = p.transport(int(offset), int(length))
		case p.reply:
			header = append(fields(rowPort, 2), unknown(2)...)
		}
	}
	cells := unknown(int(length))
	if int(offset) < len(header) {
		copy(cells, header[offset:])
	}
	return cells
}

// addr returns an address in the packet: the container's if container is set, else a.
func (p *Packet) addr(a netip.Addr, container bool) []cell {
	if container {
		return fields(rowAddr, 4)
	}
	if !a.IsValid() {
		return unknown(4)
	}
	b := a.As4()
	return constant(b[:])
}

// proto returns the protocol of the packet.
func (p *Packet) proto() []cell {
	switch {
	case p.forwarded != nil:
		return fields(rowProto, 1)
	case p.one != nil:
		return constant([]byte{p.single().Proto})
	}
	return []cell{{kind: isProto}}
}

// port returns the destination port of a packet that is not a reply.
func (p *Packet) port() []cell {
	if p.forwarded != nil {
		return fields(rowPort, 2)
	}
	return []cell{{kind: isPortHigh}, {kind: isPortLow}}
}

// to returns when the packet has that protocol and one of the ports first to last.
func (p *Packet) to(proto uint8, first, last uint16) match {
	if p.forwarded == nil {
		return match{ports: protoPorts(proto, first, last)}
	}
	if p.reply {
		// The destination is the client's port, which is unknown.
		m := p.forwarded.where(rowProto, []byte{proto})
		m.maybe = first > 0 || last < math.MaxUint16
		return m
	}
	number := func(port uint16) []byte { return binary.BigEndian.AppendUint16([]byte{proto}, port) }
	return p.forwarded.between(rowProto, number(first), number(last))
}

// toEither is to for both protocols.
func (p *Packet) toEither(first, last uint16) match {
	if p.one != nil && p.one.Reply {
		return matches(p.clientIn(first, last))
	}
	return p.to(unix.IPPROTO_TCP, first, last).or(p.to(unix.IPPROTO_UDP, first, last))
}

// ct returns what a ct expression loads for the first packet of a flow, or for its
// reply.
func (p *Packet) ct(x *expr.Ct) []cell {
	key := x.Key
	number := func(n uint32) []cell { return constant(binary.NativeEndian.AppendUint32(nil, n)) }
	if p.one != nil {
		return p.singleCt(x)
	}
	switch {
	case key == expr.CtKeySTATE && p.reply:
		return number(expr.CtStateBitESTABLISHED)
	case key == expr.CtKeySTATE:
		return number(expr.CtStateBitNEW)
	case key == expr.CtKeyDIRECTION && p.reply:
		return constant([]byte{1})
	case key == expr.CtKeyDIRECTION:
		return constant([]byte{0}) // the original one
	case key == expr.CtKeySTATUS && p.reply:
		return number(ctStatusReply)
	case key == expr.CtKeySTATUS && p.forwarded != nil:
		return number(ctStatusDNAT | ctStatusDNATDone)
	case key == expr.CtKeySTATUS && p.Hook == *nftables.ChainHookInput:
		// The packet was not sent elsewhere. Our own rule translates to the address
		// that it already has, and the kernel does not record that as DNAT
		// (nf_nat_setup_info in net/netfilter/nf_nat_core.c).
		return number(ctStatusDNATDone)
	}
	return unknown(maxValue)
}

// Of enum ip_conntrack_status in nf_conntrack_common.h: IPS_DST_NAT, IPS_DST_NAT_DONE,
// and the status of the first reply in a flow with both kinds of NAT.
const (
	ctStatusDNAT     = 1 << 5
	ctStatusDNATDone = 1 << 8
	ctStatusReply    = ctStatusDNAT | ctStatusDNATDone | 1<<1 /* seen */ | 1<<3 /* confirmed */ | 1<<4 | 1<<7 /* source NAT, done */
)

// fib returns what a fib expression loads.
func (p *Packet) fib(x *expr.Fib) []cell {
	if p.one != nil && x.ResultADDRTYPE && x.FlagSADDR && !x.FlagIIF && !x.FlagOIF {
		return constant(binary.NativeEndian.AppendUint32(nil, p.typeOf(p.Src)))
	}
	if x.ResultADDRTYPE && x.FlagDADDR && !x.FlagIIF && !x.FlagOIF {
		return constant(binary.NativeEndian.AppendUint32(nil, p.addrType()))
	}
	return unknown(maxValue)
}

// addrType returns the route type of the destination: local for this machine, unicast
// for a container.
func (p *Packet) addrType() uint32 {
	switch {
	case p.one != nil:
		return p.typeOf(p.Dst)
	case p.forwarded != nil && !p.reply:
		return unix.RTN_UNICAST
	}
	return unix.RTN_LOCAL
}
