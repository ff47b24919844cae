package lab

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// The pieces of which the bench's rules are made. Everything passes through
// register 1; the comment after each says what nft prints.

// match is "KEY == value", for a key of package expr such as MetaKeyL4PROTO.
func match(key expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
	}
}

// matchNot is "KEY != value".
func matchNot(key expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: value},
	}
}

// The offsets of the addresses in the IPv4 header.
const (
	saddr = 12
	daddr = 16
)

// matchAddr is "ip saddr PREFIX" or "ip daddr PREFIX", or with CmpOpNeq its
// contrary.
func matchAddr(offset uint32, op expr.CmpOp, prefix netip.Prefix) []expr.Any {
	mask := make([]byte, 4)
	binary.BigEndian.PutUint32(mask, ^uint32(0)<<(32-prefix.Bits()))
	exprs := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
	}
	if prefix.Bits() < 32 {
		exprs = append(exprs, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)})
	}
	return append(exprs, &expr.Cmp{Op: op, Register: 1, Data: prefix.Masked().Addr().AsSlice()})
}

// single is the prefix of one address.
func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// The offsets of the ports in the headers of TCP and UDP.
const (
	sport = 0
	dport = 2
)

// matchPorts is "th sport FIRST-LAST" or "th dport FIRST-LAST".
func matchPorts(offset uint32, first, last uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: be16(first), ToData: be16(last)},
	}
}

// matchPort is "tcp dport PORT" or "udp dport PORT", after a match of the protocol.
func matchPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: dport, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: be16(port)},
	}
}

// matchLocal is "-m addrtype --dst-type LOCAL" of iptables, as Docker has it.
func matchLocal() []expr.Any {
	return []expr.Any{&expr.Match{Name: "addrtype", Rev: 1, Info: &xt.AddrTypeV1{Dest: 1 << unix.RTN_LOCAL}}}
}

func counter() []expr.Any { return []expr.Any{&expr.Counter{}} }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// l4proto is the value of MetaKeyL4PROTO for "tcp" and "udp".
func l4proto(proto string) []byte {
	if proto == "udp" {
		return []byte{unix.IPPROTO_UDP}
	}
	return []byte{unix.IPPROTO_TCP}
}

// ifname is an interface's name as the kernel compares it.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func be16(n uint16) []byte { return binaryutil.BigEndian.PutUint16(n) }

// addRules appends rules to a chain; each rule is the sum of its parts.
func addRules(c *nftables.Conn, chain *nftables.Chain, rules ...[][]expr.Any) {
	for _, parts := range rules {
		rule := &nftables.Rule{Table: chain.Table, Chain: chain}
		for _, part := range parts {
			rule.Exprs = append(rule.Exprs, part...)
		}
		c.AddRule(rule)
	}
}
