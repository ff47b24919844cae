package nft

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// A Ruleset is what the kernel's tables of the families ip and inet contain, as
// far as it takes to tell what happens to a packet of IPv4.
type Ruleset struct {
	base   []*chain // those with a hook, in the order of their priority
	chains map[chainID]*chain
	sets   map[setID]*set
	// generation is which state of the kernel's ruleset this is.
	generation uint32
}

// tableID names a table.
type tableID struct {
	family byte
	name   string
}

type (
	chainID struct {
		table tableID
		name  string
	}
	setID chainID
)

// A chain is a chain of anybody's.
type chain struct {
	chainID
	hooked   bool
	kind     nftables.ChainType
	hook     nftables.ChainHook
	priority nftables.ChainPriority
	drop     bool // the policy
	rules    []*rule
}

type rule struct {
	handle  uint64
	exprs   []namedExpr
	comment string
}

// A set is a set, a map or a verdict map.
type set struct {
	interval, concat, isMap bool
	keyLen                  uint32
	elements                []element
}

type element struct {
	key, keyEnd []byte
	intervalEnd bool
	catchAll    bool
	value       []byte
	verdict     *expr.Verdict
}

// The attributes of nf_tables.h that the library keeps to itself.
const (
	setFlagInterval = 0x4
	setFlagMap      = 0x8
	setFlagConcat   = 0x80
	setElemKeyEnd   = 10 // NFTA_SET_ELEM_KEY_END
	elemFlagEnd     = 0x1
	elemFlagAll     = 0x2 // catch-all
)

// messages are the answers to dumps of the whole ruleset, each beginning with
// an nfgenmsg.
type messages struct {
	chains, rules, sets [][]byte
	// elements are those of one set of sets.
	elements func(family byte, table, set string) ([][]byte, error)
	// forward has the rules decoded for what is forwarded, too, and input those for
	// what this machine takes in.
	forward, input bool
}

// decode makes a Ruleset of messages. Sets are read where a rule uses them.
func (m messages) decode() (*Ruleset, error) {
	rs := &Ruleset{chains: map[chainID]*chain{}, sets: map[setID]*set{}}
	for _, b := range m.chains {
		c, err := decodeChain(b)
		if err != nil {
			return nil, fmt.Errorf("decode chain: %w", err)
		}
		rs.chains[c.chainID] = c
		if c.hooked {
			rs.base = append(rs.base, c)
		}
	}
	// In the order of their priority, as those of our own table are in a Spec's.
	// In which order they run is the walk's to know.
	slices.SortStableFunc(rs.base, func(a, b *chain) int { return cmp.Compare(a.priority, b.priority) })

	return rs, m.decodeReachable(rs)
}

// decodeReachable decodes the rules that a packet of a Walk can come to, and the
// sets that they use. What an engine writes for the other hooks is often more
// than that.
func (m messages) decodeReachable(rs *Ruleset) error {
	rules := map[chainID][][]byte{}
	for _, b := range m.rules {
		id, err := decodeRuleChain(b)
		if err != nil {
			return fmt.Errorf("decode rule: %w", err)
		}
		rules[id] = append(rules[id], b)
	}
	sets := map[setID]*set{}
	for _, b := range m.sets {
		id, s, err := decodeSet(b)
		if err != nil {
			return fmt.Errorf("decode set: %w", err)
		}
		sets[id] = s
	}

	known := exprCache{}
	var pending []*chain
	seen := map[chainID]bool{}
	reach := func(id chainID) {
		if c := rs.chains[id]; c != nil && !seen[id] {
			seen[id] = true
			pending = append(pending, c)
		}
	}
	for _, c := range rs.base {
		switch {
		case c.hook == *nftables.ChainHookPrerouting, c.hook == *nftables.ChainHookOutput,
			c.hook == *nftables.ChainHookForward && m.forward, c.hook == *nftables.ChainHookInput && m.input, c.table == ourTable:
			reach(c.chainID)
		}
	}
	reach(sourceChain)
	for len(pending) > 0 {
		c := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		for _, b := range rules[c.chainID] {
			_, r, err := decodeRule(b, known)
			if err != nil {
				return fmt.Errorf("decode rule: %w", err)
			}
			c.rules = append(c.rules, r)
			for _, e := range r.exprs {
				switch x := e.expr.(type) {
				case *expr.Verdict:
					reach(chainID{c.table, x.Chain})
				case *expr.Lookup:
					id := setID{c.table, x.SetName}
					s := sets[id]
					if s == nil || rs.sets[id] != nil {
						continue
					}
					if err := m.readElements(id, s); err != nil {
						return err
					}
					rs.sets[id] = s
					for _, e := range s.elements {
						if e.verdict != nil {
							reach(chainID{c.table, e.verdict.Chain})
						}
					}
				}
			}
		}
	}
	return nil
}

func (m messages) readElements(id setID, s *set) error {
	lists, err := m.elements(id.table.family, id.table.name, id.name)
	if err != nil {
		return fmt.Errorf("read elements of set %s: %w", id.name, err)
	}
	for _, b := range lists {
		if err := s.decodeElements(b); err != nil {
			return fmt.Errorf("decode elements of set %s: %w", id.name, err)
		}
	}
	return nil
}

// ourTable is the table of ours.
var ourTable = tableID{unix.NFPROTO_IPV4, TableName}

func decodeChain(msg []byte) (*chain, error) {
	c := new(chain)
	var err error
	c.table.family, err = attributes(msg, func(a *attr) {
		switch a.kind {
		case unix.NFTA_CHAIN_TABLE:
			c.table.name = a.text()
		case unix.NFTA_CHAIN_NAME:
			c.name = a.text()
		case unix.NFTA_CHAIN_TYPE:
			c.kind = nftables.ChainType(a.text())
		case unix.NFTA_CHAIN_POLICY:
			c.drop = expr.VerdictKind(int32(a.number())) == expr.VerdictDrop
		case unix.NFTA_CHAIN_HOOK:
			c.hooked = true
			a.do(func(b []byte) error {
				return nested(b, func(a *attr) {
					switch a.kind {
					case unix.NFTA_HOOK_HOOKNUM:
						c.hook = nftables.ChainHook(a.number())
					case unix.NFTA_HOOK_PRIORITY:
						c.priority = nftables.ChainPriority(a.number())
					}
				})
			})
		}
	})
	return c, err
}

// comment is the comment in the user data of a rule. What nft writes are types,
// lengths and values; others write anything, and userdata.GetString panics.
func comment(b []byte) string {
	for len(b) >= 2 && len(b)-2 >= int(b[1]) {
		value := b[2 : 2+int(b[1])]
		if userdata.Type(b[0]) == userdata.TypeComment {
			return unix.ByteSliceToString(value)
		}
		b = b[2+int(b[1]):]
	}
	return ""
}

// decodeRuleChain is the part of decodeRule that tells whose rule it is.
func decodeRuleChain(msg []byte) (id chainID, err error) {
	id.table.family, err = attributes(msg, func(a *attr) {
		switch a.kind {
		case unix.NFTA_RULE_TABLE:
			id.table.name = a.text()
		case unix.NFTA_RULE_CHAIN:
			id.name = a.text()
		}
	})
	return id, err
}

func decodeRule(msg []byte, known exprCache) (id chainID, r *rule, err error) {
	r = new(rule)
	var list []byte
	id.table.family, err = attributes(msg, func(a *attr) {
		switch a.kind {
		case unix.NFTA_RULE_TABLE:
			id.table.name = a.text()
		case unix.NFTA_RULE_CHAIN:
			id.name = a.text()
		case unix.NFTA_RULE_HANDLE:
			r.handle = a.number64()
		case unix.NFTA_RULE_EXPRESSIONS:
			list = a.data
		case unix.NFTA_RULE_USERDATA:
			r.comment = comment(a.data)
		}
	})
	if err != nil {
		return id, nil, err
	}
	err = nested(list, func(a *attr) {
		a.do(func(b []byte) error {
			e, err := known.decode(id.table.family, b)
			r.exprs = append(r.exprs, e)
			return err
		})
	})
	return id, r, err
}
