package nft

import (
	"bytes"
	"encoding/binary"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// fromWindows is iif "loopback0". Comparing the index takes one word, and a link that
// is created again under the same name is a different link.
func (s Spec) fromWindows() []expr.Any { return matchLink(expr.MetaKeyIIF, expr.CmpOpEq, s.Index) }

// toWindows is oif "loopback0" ip daddr 127.0.0.1.
func toWindows(index int) []expr.Any {
	return append(matchLink(expr.MetaKeyOIF, expr.CmpOpEq, index), matchAddr(ipDaddr, loopback)...)
}

// elsewhere is iif (or oif) != "loopback0" and != "lo".
func (s Spec) elsewhere(key expr.MetaKey) []expr.Any {
	const lo = 1 // LOOPBACK_IFINDEX in include/net/flow.h
	return append(matchLink(key, expr.CmpOpNeq, s.Index), matchLink(key, expr.CmpOpNeq, lo)...)
}

func matchLink(key expr.MetaKey, op expr.CmpOp, index int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: word(uint32(index))},
	}
}

// word encodes a number as meta and ct expressions do.
func word(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// The offsets of the addresses in an IPv4 header.
const (
	ipSaddr = 12
	ipDaddr = 16
)

func loadAddr(offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func matchAddr(offset uint32, addr []byte) []expr.Any {
	return []expr.Any{loadAddr(offset, uint32(len(addr))), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr}}
}

// inAddrSet is ip daddr (or saddr) @name.
func inAddrSet(offset uint32, name string) []expr.Any {
	return []expr.Any{loadAddr(offset, 4), &expr.Lookup{SourceRegister: 1, SetName: name}}
}

// matchLoopbackNet is ip daddr (or saddr) 127.0.0.0/8, whose prefix is one byte.
func matchLoopbackNet(offset uint32) []expr.Any { return matchAddr(offset, []byte{127}) }

// loadPort is meta l4proto . th dport, in the registers from 1 on.
func loadPort() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		loadTH(unix.NFT_REG32_01, thDport),
	}
}

// Offsets in a TCP or UDP header, and of the TCP flags.
const (
	thSport  = 0
	thDport  = 2
	tcpFlags = 13
)

// loadTH loads two bytes of the TCP or UDP header.
func loadTH(register, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}
}

func inPortSet(name string) []expr.Any {
	return append(loadPort(), &expr.Lookup{SourceRegister: 1, SetName: name})
}

// matchRange compares register 1 with an inclusive range.
func matchRange(first, last []byte) []expr.Any {
	if bytes.Equal(first, last) {
		return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: first}}
	}
	return []expr.Any{
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: first},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: last},
	}
}

func matchProto(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
}

// wasTranslated is ct status dnat.
func wasTranslated() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: word(ctStatusDNAT), Xor: word(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: word(0)},
	}
}

// ctStatusDNAT is IPS_DST_NAT of enum ip_conntrack_status in nf_conntrack_common.h.
const ctStatusDNAT = 1 << 5

// toLocalhost is dnat to 127.0.0.1, after a counter.
func toLocalhost() []expr.Any {
	return []expr.Any{
		&expr.Counter{},
		&expr.Immediate{Register: 1, Data: loopback},
		// The kernel reports a single address as a range of one.
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegAddrMax: 1},
	}
}
