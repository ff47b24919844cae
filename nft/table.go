package nft

import (
	"encoding/binary"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The name of the table, in family ip, and of the chain that is the heart of
// it. Users and tests know them: they do not change.
const (
	TableName       = "wslmirror"
	TableFamily     = "ip"
	PreroutingChain = "WSLPREROUTING"
)

// A Table is the content of our table: what it should be, or what it is.
type Table struct {
	Sets   []Set
	Chains []Chain
}

// A Set is a set of the type inet_proto . inet_service.
type Set struct {
	Name  string
	Ports Ports
}

// A Chain is a base chain, with policy accept.
type Chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     nftables.ChainHook
	Priority nftables.ChainPriority
	Rules    []Rule
}

// A Rule is the expressions of a rule, with its counters at zero, and its
// comment.
type Rule struct {
	Comment string
	Exprs   []expr.Any
}

// Equal reports whether two tables do the same: whether they are the same but
// for what their rules have counted.
func (t Table) Equal(u Table) bool { return reflect.DeepEqual(t, u) }

// sameBut reports whether two tables are the same but for the ports in their
// sets.
func (t Table) sameBut(u Table) bool {
	names := func(t Table) (names []string) {
		for _, s := range t.Sets {
			names = append(names, s.Name)
		}
		return names
	}
	return slices.Equal(names(t), names(u)) && reflect.DeepEqual(t.Chains, u.Chains)
}

// Set returns the ports of the set of that name.
func (t Table) Set(name string) Ports {
	for _, s := range t.Sets {
		if s.Name == name {
			return s.Ports
		}
	}
	return nil
}

// KernelSet is the set of the ports that the kernel serves on 127.0.0.1.
const KernelSet = "kernel"

// loopback is 127.0.0.1.
var loopback = []byte{127, 0, 0, 1}

// Mirror is the table that makes Windows' 127.0.0.1 reach what Linux serves on
// its own, for packets that enter by the link of that index.
//
// The rule "dnat to 127.0.0.1" changes no address. It completes NAT for the
// flow, and the kernel then passes over all later nat chains at this hook, the
// container engine's among them (nf_nat_inet_fn in net/netfilter/nf_nat_core.c
// asks a chain only for flows that have no NAT yet). Accept or return would
// only end this one chain. So the packet is delivered locally, to the engine's
// userland proxy or to whoever listens.
//
// The ports in kernel are left alone: there the engine's DNAT is what serves
// localhost, and nothing of worth listens.
func Mirror(ifindex int, kernel Ports) Table {
	// iif, not iifname: an index compares one word, and a link that comes back
	// under the same name is a different link.
	fromWindows := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, uint32(ifindex))},
		// ip daddr
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: ipDaddr, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: loopback},
	}
	return Table{
		Sets: []Set{{KernelSet, kernel}},
		Chains: []Chain{{
			Name: PreroutingChain,
			Type: nftables.ChainTypeNAT,
			Hook: *nftables.ChainHookPrerouting,
			// One step before the engines, whose DNAT is at dstnat.
			Priority: *nftables.ChainPriorityNATDest - 1,
			Rules: []Rule{{
				Comment: "served by the kernel",
				// Accept ends this chain only: the engine's comes next.
				Exprs: slices.Concat(fromWindows, inSet(KernelSet), []expr.Any{
					&expr.Counter{},
					&expr.Verdict{Kind: expr.VerdictAccept},
				}),
			}, {
				Comment: mirrored,
				Exprs: slices.Concat(fromWindows, []expr.Any{
					&expr.Counter{},
					&expr.Immediate{Register: 1, Data: loopback},
					// The kernel reports a single address as a range of one.
					&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegAddrMax: 1},
				}),
			}},
		}},
	}
}

// mirrored is the comment of the rule that is counted.
const mirrored = "mirrored"

// inSet is meta l4proto . th dport @name.
func inSet(name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Payload{DestRegister: unix.NFT_REG32_01, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: name},
	}
}

// element is a port as an element of a set has it: each field fills a word.
func (p Port) element() []byte {
	return []byte{p.Proto, 0, 0, 0, byte(p.Number >> 8), byte(p.Number), 0, 0}
}

// portOf is what element has made.
func portOf(key []byte) (p Port, ok bool) {
	if len(key) != 8 || key[0] != unix.IPPROTO_TCP && key[0] != unix.IPPROTO_UDP {
		return p, false
	}
	return Port{key[0], binary.BigEndian.Uint16(key[4:])}, true
}
