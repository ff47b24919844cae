package nft

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// guard keeps containers out of 127.0.0.0/8, which route_localnet would let them reach
// (CVE-2020-8558): in Linux, and through WSL's table 127 in Windows. It runs before nat
// turns the address of a legitimate reply back into 127.0.0.1, so that such a reply
// still has the address of the bridge. It also runs before conntrack, so that a forged
// packet touches no flow.
func (s Spec) guard() ruleset.Chain {
	drop := func(offset uint32, comment string) ruleset.Rule {
		return ruleset.Rule{Comment: comment, Exprs: slices.Concat(matchLoopbackNet(offset), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Lookup{SourceRegister: 1, SetName: guardedSet},
			&expr.Counter{},
			&expr.Verdict{Kind: expr.VerdictDrop},
		})}
	}
	c := ruleset.Chain{
		Name: "guard", Type: nftables.ChainTypeFilter, Hook: *nftables.ChainHookPrerouting,
		Priority: *nftables.ChainPriorityRaw - 1,
	}
	if s.Refuse {
		// Here and not in a chain of its own, which would cost every packet.
		c.Rules = append(c.Rules, s.answered())
	}
	c.Rules = append(c.Rules,
		// Every packet gets here, and all packets from Windows have addresses of
		// 127.0.0.0/8.
		ruleset.Rule{Comment: "from Windows", Exprs: append(s.fromWindows(), &expr.Verdict{Kind: expr.VerdictAccept})},
		drop(ipDaddr, "to localhost"), drop(ipSaddr, "as localhost"))
	return c
}
