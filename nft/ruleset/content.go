package ruleset

import (
	"math"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// A Content is all that is in one table.
type Content struct {
	Sets   []ContentSet // by name
	Chains []ContentChain
}

// A ContentSet is a set or a map.
type ContentSet struct {
	Name     string
	KeyLen   int // bytes
	Map      bool
	Interval bool
	Elements []ContentElement
}

// A ContentElement is an element as the kernel has it: KeyEnd is empty where the
// element is one value, Value where the set is no map.
type ContentElement struct{ Key, KeyEnd, Value string }

// A ContentChain is a chain with a hook.
type ContentChain struct {
	Name     string
	Type     nftables.ChainType
	Hook     nftables.ChainHook
	Priority nftables.ChainPriority
	Rules    []Rule
}

// Own is the content of our own table, whoever made it. Its counters are at zero.
func (rs *Ruleset) Own() (c Content) {
	for id, set := range rs.sets {
		if id.table != rs.own {
			continue
		}
		rs.readElements(set, math.MaxInt)
		out := ContentSet{Name: id.name, KeyLen: int(set.keyLen), Map: set.isMap, Interval: set.interval}
		for _, e := range set.elements {
			out.Elements = append(out.Elements, ContentElement{string(e.key), string(e.keyEnd), string(e.value)})
		}
		slices.SortFunc(out.Elements, func(a, b ContentElement) int { return strings.Compare(a.Key, b.Key) })
		c.Sets = append(c.Sets, out)
	}
	slices.SortFunc(c.Sets, func(a, b ContentSet) int { return strings.Compare(a.Name, b.Name) })
	for _, b := range rs.base { // in the order of their priority
		if b.table != rs.own {
			continue
		}
		out := ContentChain{Name: b.name, Type: b.kind, Hook: b.hook, Priority: b.priority}
		rules, _ := rs.rulesOf(b)
		for _, r := range rules {
			out.Rules = append(out.Rules, Rule{Place{b.chainID, r.handle}, r.comment, r.content()})
		}
		c.Chains = append(c.Chains, out)
	}
	return c
}
