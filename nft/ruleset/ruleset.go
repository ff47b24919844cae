package ruleset

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A Ruleset is what the tables of the families ip and inet contain, as far as
// somebody asks: the rules of a table are read when a walk comes to one of its
// chains, and of a set no more than the walk needs to know. So what it costs
// depends on the rules that a packet to 127.0.0.1 meets, and not on how large
// other people's sets and tables are.
//
// It is good for as long as the kernel's ruleset has the same generation; see
// Reader.Read.
type Ruleset struct {
	from   kernel
	own    tableID  // which a walk leaves out
	base   []*chain // those with a hook, in the order of their priority
	chains map[chainID]*chain
	sets   map[setID]*set
	owners map[tableID]uint32
	// dormant are the tables whose chains are not in use.
	dormant map[tableID]bool
	// passing are tables of our own commands, as wslmirror-trace-7: they let everything
	// pass, and will be gone soon.
	passing map[tableID]bool

	rules map[tableID]error // the tables whose rules were read, and how that ended
	known exprCache
	// failed is the first reading that failed since the Ruleset was made. The walk
	// goes on as if it knew nothing.
	failed error
}

// kernel is where the parts of a Ruleset are read: the kernel's own tables, or a
// recording of them.
type kernel interface {
	// tables, chains and sets are the messages of a whole family.
	tables(family byte) ([][]byte, error)
	chains(family byte) ([][]byte, error)
	sets(family byte) ([][]byte, error)
	// rulesOf calls each with the messages of the rules of a table.
	rulesOf(t tableID, each func(msg []byte) bool) error
	// elementsOf calls each with messages of elements, until it returns false.
	elementsOf(s setID, each func(msg []byte) bool) error
	// element is the element that has this key, or whose interval contains it, and
	// nil if there is none. A nil key means the catch-all element.
	element(s setID, key []byte) (*element, error)
}

// tableID names a table.
type tableID struct {
	family byte
	name   string
}

// Family is the family as nft writes it.
func (t tableID) Family() string { return FamilyName(t.family) }

// FamilyName is a family as nft writes it.
func FamilyName(family byte) string {
	switch family {
	case unix.NFPROTO_INET:
		return "inet"
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	case unix.NFPROTO_BRIDGE:
		return "bridge"
	case unix.NFPROTO_NETDEV:
		return "netdev"
	}
	return fmt.Sprint(family)
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
	raw      [][]byte
	rules    []*rule // of raw, once a walk came here
}

type rule struct {
	handle  uint64
	comment string
	family  byte
	exprs   []namedExpr // those that were decoded, and the rest, which was not
	rest    []byte
}

// families are those whose rules packets of IPv4 meet, in the order in which they
// are read.
var families = []byte{unix.NFPROTO_INET, unix.NFPROTO_IPV4}

// read reads which tables, chains and sets there are. own names our own table, of
// the family ip.
func read(from kernel, own string) (*Ruleset, error) {
	rs := &Ruleset{
		from: from, own: tableID{unix.NFPROTO_IPV4, own},
		chains: map[chainID]*chain{}, sets: map[setID]*set{}, owners: map[tableID]uint32{}, dormant: map[tableID]bool{}, passing: map[tableID]bool{},
		rules: map[tableID]error{}, known: exprCache{},
	}
	for _, family := range families {
		for _, dump := range []struct {
			what   string
			read   func(family byte) ([][]byte, error)
			decode func(msg []byte) error
		}{
			{"tables", from.tables, rs.addTable},
			{"chains", from.chains, rs.addChain},
			{"sets", from.sets, rs.addSet},
		} {
			msgs, err := dump.read(family)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", dump.what, err)
			}
			for _, m := range msgs {
				if err := dump.decode(m); err != nil {
					return nil, fmt.Errorf("decode %s: %w", dump.what, err)
				}
			}
		}
	}
	// In the order of their priority, as those of our own table are when they are
	// made. In which order they run is the walk's to know.
	slices.SortStableFunc(rs.base, func(a, b *chain) int { return cmp.Compare(a.priority, b.priority) })
	return rs, nil
}

func (rs *Ruleset) addTable(msg []byte) error {
	t, owner, dormant, err := decodeTable(msg)
	if t.family == rs.own.family && owner != 0 && strings.HasPrefix(t.name, rs.own.name+"-") {
		rs.passing[t] = true
		return err
	}
	rs.owners[t], rs.dormant[t] = owner, dormant
	return err
}

func (rs *Ruleset) addChain(msg []byte) error {
	c, err := decodeChain(msg)
	if rs.passing[c.table] {
		return err
	}
	rs.chains[c.chainID] = c
	if c.hooked {
		rs.base = append(rs.base, c)
	}
	return err
}

func (rs *Ruleset) addSet(msg []byte) error {
	id, s, err := decodeSet(msg)
	rs.sets[id] = s
	return err
}

// fail notes that something could not be read, which a walk then takes for
// unknown.
func (rs *Ruleset) fail(err error) {
	if rs.failed == nil {
		rs.failed = err
	}
}

// readRules reads the rules of a table, once.
func (rs *Ruleset) readRules(t tableID) error {
	if err, done := rs.rules[t]; done || rs.from == nil {
		return err
	}
	var decoding error
	err := rs.from.rulesOf(t, func(msg []byte) bool {
		id, err := decodeRuleChain(msg)
		if err != nil {
			decoding = fmt.Errorf("decode rule: %w", err)
			return false
		}
		if c := rs.chains[id]; c != nil {
			c.raw = append(c.raw, msg)
		}
		return true
	})
	if err != nil {
		err = fmt.Errorf("read the rules of table %s %s: %w", t.Family(), t.name, err)
	}
	err = errors.Join(err, decoding)
	if err != nil {
		rs.fail(err)
	}
	rs.rules[t] = err
	return err
}

// rulesOf decodes the rules of a chain, once. ok says that they are all.
func (rs *Ruleset) rulesOf(c *chain) (rules []*rule, ok bool) {
	if err := rs.readRules(c.table); err != nil {
		return nil, false
	}
	if len(c.raw) == 0 {
		return c.rules, true
	}
	for _, msg := range c.raw {
		_, r, err := decodeRule(msg)
		if err != nil {
			rs.fail(fmt.Errorf("decode rule: %w", err))
			return nil, false
		}
		rules = append(rules, r)
	}
	c.raw, c.rules = nil, rules
	return rules, true
}

// A Place is a rule, or the policy of a chain if Handle is 0.
type Place struct {
	chainID
	Handle uint64
}

// Family is the family as nft writes it.
func (p Place) Family() string { return p.table.Family() }

// TableFamily is the family as the library has it.
func (p Place) TableFamily() nftables.TableFamily { return nftables.TableFamily(p.table.family) }

// Table is the name of the table.
func (p Place) Table() string { return p.table.name }

// Chain is the name of the chain.
func (p Place) Chain() string { return p.name }

// InChain reports whether both are of one chain.
func (p Place) InChain(q Place) bool { return p.chainID == q.chainID }

// Owned reports whether a process owns the table, so that nobody else can change
// it.
func (rs *Ruleset) Owned(p Place) bool { return rs.owners[p.table] != 0 }

// AnyOwned reports whether a process owns a table other than ours.
func (rs *Ruleset) AnyOwned() bool {
	for t, owner := range rs.owners {
		if owner != 0 && t != rs.own {
			return true
		}
	}
	return false
}

// A Rule is a rule with what it does.
type Rule struct {
	Place   Place
	Comment string
	Exprs   []expr.Any
}

// Commented are the rules with a comment in the tables of others, as far as those
// see what arrives.
func (rs *Ruleset) Commented(comment string) (list []Rule) {
	seen := map[tableID]bool{rs.own: true}
	for _, b := range rs.base {
		if b.hook != *nftables.ChainHookPrerouting || seen[b.table] {
			continue
		}
		seen[b.table] = true
		if rs.readRules(b.table) != nil {
			continue
		}
		for _, c := range rs.chains {
			if c.table != b.table || !c.has(comment) {
				continue
			}
			rules, _ := rs.rulesOf(c)
			for _, r := range rules {
				if r.comment == comment {
					exprs, err := r.content(rs.known)
					if err != nil {
						rs.fail(fmt.Errorf("decode rule: %w", err))
					}
					list = append(list, Rule{Place{c.chainID, r.handle}, r.comment, exprs})
				}
			}
		}
	}
	slices.SortFunc(list, func(a, b Rule) int { return cmp.Compare(a.Place.Handle, b.Place.Handle) })
	return list
}

// has reports whether a rule of c may have that comment.
func (c *chain) has(comment string) bool {
	return slices.ContainsFunc(c.raw, func(msg []byte) bool { return bytes.Contains(msg, []byte(comment)) }) ||
		slices.ContainsFunc(c.rules, func(r *rule) bool { return r.comment == comment })
}

// HasTable reports whether there is a table of that name in the family ip or
// inet.
func (rs *Ruleset) HasTable(name string) bool {
	for t := range rs.owners {
		if t.name == name {
			return true
		}
	}
	return false
}

// HasChain reports whether there is a chain of that name in a table of the
// family ip or inet.
func (rs *Ruleset) HasChain(name string) bool {
	for id := range rs.chains {
		if id.name == name {
			return true
		}
	}
	return false
}
