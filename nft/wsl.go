package nft

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// RestoredComment is by which people recognize a rule of WSL's that we have restored.
const RestoredComment = "restored by wslmirror"

// restoreChain adds a chain of WSL's again, with its table if that has gone too.
func restoreChain(conn *nftables.Conn, w ruleset.WSLChain) {
	table := &nftables.Table{Name: w.Table, Family: nftables.TableFamilyIPv4}
	if w.Family == "ip6" {
		table.Family = nftables.TableFamilyIPv6
	}
	conn.AddTable(table)
	policy := nftables.ChainPolicyAccept
	chain := conn.AddChain(&nftables.Chain{
		Table: table, Name: w.Name, Type: w.Type, Hooknum: &w.Hook, Priority: &w.Priority, Policy: &policy,
	})
	for _, r := range w.Rules {
		conn.AddRule(&nftables.Rule{
			Table: table, Chain: chain, Exprs: r.Exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, RestoredComment),
		})
	}
}

// Restorable reports whether c is there as WSL makes it, so that it can be restored
// when it is lost. A chain without rules was flushed, or WSL has only begun.
func Restorable(c ruleset.WSLChain) bool {
	return len(c.Rules) > 0 && !slices.ContainsFunc(c.Rules, func(r ruleset.Rule) bool { return slices.Contains(r.Exprs, nil) })
}

// Relink is c with its rules for the links that are there now. A rule of WSL's names a
// link by its index, which another link has when the first was removed and added
// again. was is the names of the links when c was seen, is their indexes now. A rule
// whose link is not there is left out.
func Relink(c ruleset.WSLChain, was map[int]string, is map[string]int) ruleset.WSLChain {
	var rules []ruleset.Rule
	for _, r := range c.Rules {
		r.Exprs = slices.Clone(r.Exprs)
		gone := false
		for i := 1; i < len(r.Exprs); i++ {
			m, ok1 := r.Exprs[i-1].(*expr.Meta)
			e, ok2 := r.Exprs[i].(*expr.Cmp)
			if !ok1 || !ok2 || m.Key != expr.MetaKeyOIF || len(e.Data) != 4 {
				continue
			}
			index, there := is[was[int(binary.NativeEndian.Uint32(e.Data))]]
			moved := *e
			moved.Data = word(uint32(index))
			r.Exprs[i], gone = &moved, !there
		}
		if !gone {
			rules = append(rules, r)
		}
	}
	c.Rules = rules
	return c
}
