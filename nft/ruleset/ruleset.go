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

// A Ruleset is the content of the tables of families ip and inet. It is read on demand:
// the rules of a table when a walk reaches one of its chains, and of a set no more than
// the walk needs. So the cost depends on the rules that a packet to 127.0.0.1 meets,
// and not on the size of other programs' sets and tables.
//
// It is valid while the kernel's ruleset keeps its generation; see Reader.Read.
type Ruleset struct {
	from   kernel
	own    tableID  // left out by walks
	base   []*chain // base chains, in the order of their priority
	chains map[chainID]*chain
	sets   map[setID]*set
	owners map[tableID]uint32
	// dormant are the tables that are switched off.
	dormant map[tableID]bool
	// passing are the tables of our own commands, such as wslmirror-trace-7. They let
	// everything pass and exist only for a short time.
	passing map[tableID]bool

	rules map[tableID]error // the tables whose rules were read, and the resulting error
	known exprCache
	// failed is the first error of a read since the Ruleset was created. The walk goes
	// on as if it knew nothing.
	failed error
}

// kernel is where the parts of a Ruleset are read from: the real kernel or a recording.
type kernel interface {
	// tables, chains and sets return the messages of a whole family.
	tables(family byte) ([][]byte, error)
	chains(family byte) ([][]byte, error)
	sets(family byte) ([][]byte, error)
	// rulesOf calls each with the rule messages of a table, until it returns false.
	rulesOf(t tableID, each func(msg []byte) bool) error
	// elementsOf calls each with the element messages of a set, until it returns false.
	elementsOf(s setID, each func(msg []byte) bool) error
	// element returns the element that has this key or whose interval contains it, nil
	// if there is none. A nil key means the catch-all element.
	element(s setID, key []byte) (*element, error)
}

// tableID names a table.
type tableID struct {
	family byte
	name   string
}

// Family returns the family as nft writes it.
func (t tableID) Family() string { return FamilyName(t.family) }

// FamilyName returns a family as nft writes it.
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

// A chain is a chain of any program.
type chain struct {
	chainID
	hooked   bool
	kind     nftables.ChainType
	hook     nftables.ChainHook
	priority nftables.ChainPriority
	drop     bool // the policy
	raw      [][]byte
	rules    []*rule // decoded from raw when a walk gets here
}

type rule struct {
	handle  uint64
	comment string
	family  byte
	exprs   []namedExpr // the expressions decoded so far; rest has the others
	rest    []byte
}

// families are the families whose rules IPv4 packets meet, in the order in which they
// are read.
var families = []byte{unix.NFPROTO_INET, unix.NFPROTO_IPV4}

// read reads which tables, chains and sets exist. own is the name of our own table, of
// family ip.
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
	// Sorted by priority, like the chains of a Table in package nft. The walk knows the
	// order in which they run.
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

// fail records that something could not be read. A walk treats it as unknown.
func (rs *Ruleset) fail(err error) {
	if rs.failed == nil {
		rs.failed = err
	}
}

// readRules reads the rules of a table once.
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

// rulesOf decodes the rules of a chain once. ok says that the rules are complete.
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

// Family returns the family as nft writes it.
func (p Place) Family() string { return p.table.Family() }

// TableFamily returns the family as the library's type.
func (p Place) TableFamily() nftables.TableFamily { return nftables.TableFamily(p.table.family) }

// Table returns the name of the table.
func (p Place) Table() string { return p.table.name }

// Chain returns the name of the chain.
func (p Place) Chain() string { return p.name }

// InChain reports whether both are in the same chain.
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

// A Rule is a rule with its expressions.
type Rule struct {
	Place   Place
	Comment string
	Exprs   []expr.Any
}

// Commented returns the rules with that comment in other programs' tables. It looks
// only at tables that see arriving packets.
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

// HasTable reports whether a table of that name exists in family ip or inet.
func (rs *Ruleset) HasTable(name string) bool {
	for t := range rs.owners {
		if t.name == name {
			return true
		}
	}
	return false
}

// HasChain reports whether a chain of that name exists in a table of family ip or inet.
func (rs *Ruleset) HasChain(name string) bool {
	for id := range rs.chains {
		if id.name == name {
			return true
		}
	}
	return false
}
