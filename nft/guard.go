package nft

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// guard keeps containers from 127.0.0.0/8 where route_localnet would let them
// reach it (CVE-2020-8558), in Linux and, by WSL's table 127, in Windows. It
// comes before nat turns the address of an honest reply back into 127.0.0.1, so
// that such a reply still carries the bridge's; and before conntrack, so that a
// forged packet touches no flow.
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
		// Here and not in a chain of its own, for which every packet would pay.
		c.Rules = append(c.Rules, s.answered())
	}
	c.Rules = append(c.Rules,
		// Every packet passes here, and all that Windows sends is of that net.
		ruleset.Rule{Comment: "from Windows", Exprs: append(s.fromWindows(), &expr.Verdict{Kind: expr.VerdictAccept})},
		drop(ipDaddr, "to localhost"), drop(ipSaddr, "as localhost"))
	return c
}
