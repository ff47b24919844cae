package nft

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Ruleset is what the kernel's tables of the families ip and inet contain, as
// far as it takes to tell what happens to a packet of IPv4.
type Ruleset struct {
	base   []*chain // those with a hook, in the order of their priority
	chains map[chainID]*chain
	sets   map[setID]*set
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
	interval, concat bool
	keyLen           uint32
	elements         []element
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
	// Chains of one priority run in the order in which they were registered; the
	// kernel lists them in that order.
	slices.SortStableFunc(rs.base, func(a, b *chain) int { return cmp.Compare(a.priority, b.priority) })

	used := map[setID]bool{}
	for _, b := range m.rules {
		id, r, err := decodeRule(b)
		if err != nil {
			return nil, fmt.Errorf("decode rule: %w", err)
		}
		if c := rs.chains[id]; c != nil { // else it was made in between
			c.rules = append(c.rules, r)
		}
		for _, e := range r.exprs {
			if l, ok := e.expr.(*expr.Lookup); ok {
				used[setID{id.table, l.SetName}] = true
			}
		}
	}
	for _, b := range m.sets {
		id, s, err := decodeSet(b)
		if err != nil {
			return nil, fmt.Errorf("decode set: %w", err)
		}
		if !used[id] {
			continue
		}
		lists, err := m.elements(id.table.family, id.table.name, id.name)
		if err != nil {
			return nil, fmt.Errorf("read elements of set %s: %w", id.name, err)
		}
		for _, b := range lists {
			if err := s.decodeElements(b); err != nil {
				return nil, fmt.Errorf("decode elements of set %s: %w", id.name, err)
			}
		}
		rs.sets[id] = s
	}
	return rs, nil
}

// attributes calls each with the attributes of a message after its nfgenmsg.
func attributes(msg []byte, each func(ad *netlink.AttributeDecoder)) (family byte, err error) {
	const nfgenmsg = 4
	if len(msg) < nfgenmsg {
		return 0, fmt.Errorf("a message of %d bytes", len(msg))
	}
	return msg[0], nested(msg[nfgenmsg:], each)
}

func nested(b []byte, each func(ad *netlink.AttributeDecoder)) error {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		each(ad)
	}
	return ad.Err()
}

func decodeChain(msg []byte) (*chain, error) {
	c := new(chain)
	var err error
	c.table.family, err = attributes(msg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			c.table.name = ad.String()
		case unix.NFTA_CHAIN_NAME:
			c.name = ad.String()
		case unix.NFTA_CHAIN_TYPE:
			c.kind = nftables.ChainType(ad.String())
		case unix.NFTA_CHAIN_POLICY:
			c.drop = expr.VerdictKind(int32(ad.Uint32())) == expr.VerdictDrop
		case unix.NFTA_CHAIN_HOOK:
			c.hooked = true
			ad.Do(func(b []byte) error {
				return nested(b, func(ad *netlink.AttributeDecoder) {
					switch ad.Type() {
					case unix.NFTA_HOOK_HOOKNUM:
						c.hook = nftables.ChainHook(ad.Uint32())
					case unix.NFTA_HOOK_PRIORITY:
						c.priority = nftables.ChainPriority(ad.Uint32())
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
		value := b[2 : 2+b[1]]
		if userdata.Type(b[0]) == userdata.TypeComment {
			return unix.ByteSliceToString(value)
		}
		b = b[2+int(b[1]):]
	}
	return ""
}

func decodeRule(msg []byte) (id chainID, r *rule, err error) {
	r = new(rule)
	var list []byte
	id.table.family, err = attributes(msg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			id.table.name = ad.String()
		case unix.NFTA_RULE_CHAIN:
			id.name = ad.String()
		case unix.NFTA_RULE_HANDLE:
			r.handle = ad.Uint64()
		case unix.NFTA_RULE_EXPRESSIONS:
			list = ad.Bytes()
		case unix.NFTA_RULE_USERDATA:
			r.comment = comment(ad.Bytes())
		}
	})
	if err != nil {
		return id, nil, err
	}
	err = nested(list, func(ad *netlink.AttributeDecoder) {
		ad.Do(func(b []byte) error {
			e, err := decodeExpr(id.table.family, b)
			r.exprs = append(r.exprs, e)
			return err
		})
	})
	return id, r, err
}
