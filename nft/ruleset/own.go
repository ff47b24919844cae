package ruleset

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// A Table is the content of one table: its sets by name, and its base chains in the
// order of their priorities.
type Table struct {
	Sets   []Set
	Chains []Chain
}

// A Set is a set or a map.
type Set struct {
	Name     string
	KeyLen   int // bytes
	Map      bool
	Interval bool
	// Dynamic says that packets fill the set. Its elements are then not read.
	Dynamic  bool
	Elements []Element // sorted by key
}

// An Element is encoded as in the kernel. KeyEnd is empty if the element is a single
// value, Value if the set is not a map.
type Element struct{ Key, KeyEnd, Value string }

// A Chain is a base chain.
type Chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     nftables.ChainHook
	Priority nftables.ChainPriority
	Rules    []Rule
}

// Own returns the content of our own table, whoever created it. Counters are zero, and
// rules have no place.
func (rs *Ruleset) Own() (t Table) {
	for id, set := range rs.sets {
		if id.table != rs.own {
			continue
		}
		if !set.dynamic {
			rs.readElements(set, math.MaxInt)
		}
		out := Set{Name: id.name, KeyLen: int(set.keyLen), Map: set.isMap, Interval: set.interval, Dynamic: set.dynamic}
		for _, e := range set.elements {
			out.Elements = append(out.Elements, Element{string(e.key), string(e.keyEnd), string(e.value)})
		}
		slices.SortFunc(out.Elements, func(a, b Element) int { return strings.Compare(a.Key, b.Key) })
		t.Sets = append(t.Sets, out)
	}
	slices.SortFunc(t.Sets, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	for _, b := range rs.base { // in the order of their priority
		if b.table != rs.own {
			continue
		}
		out := Chain{Name: b.name, Type: b.kind, Hook: b.hook, Priority: b.priority}
		rules, _ := rs.rulesOf(b)
		for _, r := range rules {
			exprs, err := r.content(rs.known)
			if err != nil {
				rs.fail(fmt.Errorf("decode rule: %w", err))
			}
			out.Rules = append(out.Rules, Rule{Comment: r.comment, Exprs: exprs})
		}
		t.Chains = append(t.Chains, out)
	}
	return t
}
