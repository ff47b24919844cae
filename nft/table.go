package nft

import (
	"encoding/binary"
	"reflect"

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
	Chains []Chain
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
func Mirror(ifindex int) Table {
	return Table{Chains: []Chain{{
		Name: PreroutingChain,
		Type: nftables.ChainTypeNAT,
		Hook: *nftables.ChainHookPrerouting,
		// One step before the engines, whose DNAT is at dstnat.
		Priority: *nftables.ChainPriorityNATDest - 1,
		Rules: []Rule{{
			Comment: "mirrored",
			Exprs: []expr.Any{
				// iif, not iifname: an index compares one word, and a link that
				// comes back under the same name is a different link.
				&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, uint32(ifindex))},
				// ip daddr
				&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: loopback},
				&expr.Counter{},
				&expr.Immediate{Register: 1, Data: loopback},
				// The kernel reports a single address as a range of one.
				&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegAddrMax: 1},
			},
		}},
	}}}
}
