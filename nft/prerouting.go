package nft

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// prerouting makes Windows' 127.0.0.1 reach what Linux itself serves.
//
// The rule "dnat to 127.0.0.1" changes no address. It completes NAT for the flow, so
// the kernel skips all later nat chains at this hook, including the container engine's:
// nf_nat_inet_fn in net/netfilter/nf_nat_core.c calls the chains only for flows without
// NAT. Accept or return would end only this chain. The packet is then delivered
// locally, to the engine's userland proxy or to another listener.
//
// Engine-served ports are left alone: there the engine's DNAT serves localhost, and no
// useful listener exists. Ports in the map direct go straight to the container.
func (s Spec) prerouting() ruleset.Chain {
	forLocalhost := slices.Concat(s.fromWindows(), matchAddr(ipDaddr, loopback))
	c := ruleset.Chain{
		Name: PreroutingChain,
		Type: nftables.ChainTypeNAT,
		Hook: *nftables.ChainHookPrerouting,
		// One step before the engines, whose DNAT is at dstnat.
		Priority: *nftables.ChainPriorityNATDest - 1,
		Rules: append(s.leftAlone(nil, loadPort()), ruleset.Rule{
			Comment: served,
			// Accept ends only this chain: the engine's chain comes next.
			Exprs: slices.Concat(forLocalhost, inPortSet(servedSet), []expr.Any{
				&expr.Counter{},
				&expr.Verdict{Kind: expr.VerdictAccept},
			}),
		}),
	}
	if s.Direct != nil {
		c.Rules = append(c.Rules, ruleset.Rule{Comment: pastProxy, Exprs: slices.Concat(forLocalhost, toTarget())})
	}
	c.Rules = append(c.Rules, ruleset.Rule{Comment: mirrored, Exprs: slices.Concat(forLocalhost, toLocalhost())})
	return c
}

// toTarget is counter dnat ip to meta l4proto . th dport map @direct. If the port is
// not in the map, the rule ends before the counter.
func toTarget() []expr.Any {
	return slices.Concat(loadPort(), []expr.Any{
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: directMap},
		&expr.Counter{},
		// The address fills the first word of the value, the port the second.
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, Specified: true,
			RegAddrMin: 1, RegAddrMax: 1, RegProtoMin: unix.NFT_REG32_01, RegProtoMax: unix.NFT_REG32_01,
		},
	})
}
