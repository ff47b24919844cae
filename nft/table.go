package nft

import (
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
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

// A Set is a set of ports (inet_proto . inet_service) or of links (ifname).
type Set struct {
	Name  string
	Links bool
	Keys  []string // as the kernel has them, sorted, each once
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

// sameBut reports whether two tables are the same but for the elements of their
// sets.
func (t Table) sameBut(u Table) bool {
	return slices.EqualFunc(t.Sets, u.Sets, func(a, b Set) bool { return a.Name == b.Name && a.Links == b.Links }) &&
		reflect.DeepEqual(t.Chains, u.Chains)
}

// minus is the keys in s that are not in u.
func (s Set) minus(u Set) (keys []string) {
	for _, k := range s.Keys {
		if _, found := slices.BinarySearch(u.Keys, k); !found {
			keys = append(keys, k)
		}
	}
	return keys
}

// loopback is 127.0.0.1.
var loopback = []byte{127, 0, 0, 1}
