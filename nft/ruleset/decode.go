package ruleset

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// Attributes and flags of nf_tables.h that the libraries do not export.
const (
	tableOwner      = 7 // NFTA_TABLE_OWNER
	setFlagInterval = 0x4
	setFlagMap      = 0x8
	setFlagEval     = 0x20
	setFlagConcat   = 0x80
	setElemKeyEnd   = 10 // NFTA_SET_ELEM_KEY_END
	elemFlagEnd     = 0x1
	elemFlagAll     = 0x2 // catch-all
)

// tableDormant is NFT_TABLE_F_DORMANT: the chains of the table are not in use.
const tableDormant = 0x1

func decodeTable(msg []byte) (t tableID, owner uint32, dormant bool, err error) {
	t.family, err = nlconn.GenAttrs(msg, func(a *nlconn.Attr) {
		switch a.Kind {
		case unix.NFTA_TABLE_NAME:
			t.name = a.Text()
		case unix.NFTA_TABLE_FLAGS:
			dormant = a.Uint32BE()&tableDormant != 0
		case tableOwner:
			owner = a.Uint32BE()
		}
	})
	return t, owner, dormant, err
}

func decodeChain(msg []byte) (*chain, error) {
	c := new(chain)
	var err error
	c.table.family, err = nlconn.GenAttrs(msg, func(a *nlconn.Attr) {
		switch a.Kind {
		case unix.NFTA_CHAIN_TABLE:
			c.table.name = a.Text()
		case unix.NFTA_CHAIN_NAME:
			c.name = a.Text()
		case unix.NFTA_CHAIN_TYPE:
			c.kind = nftables.ChainType(a.Text())
		case unix.NFTA_CHAIN_POLICY:
			c.drop = expr.VerdictKind(int32(a.Uint32BE())) == expr.VerdictDrop
		case unix.NFTA_CHAIN_HOOK:
			c.hooked = true
			a.Nested(func(a *nlconn.Attr) {
				switch a.Kind {
				case unix.NFTA_HOOK_HOOKNUM:
					c.hook = nftables.ChainHook(a.Uint32BE())
				case unix.NFTA_HOOK_PRIORITY:
					c.priority = nftables.ChainPriority(a.Uint32BE())
				}
			})
		}
	})
	return c, err
}

// comment returns the comment in a rule's user data. Nft writes types, lengths and
// values. Others may write anything, and userdata.GetString panics on it.
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

// decodeRuleChain decodes only the chain to which a rule belongs.
func decodeRuleChain(msg []byte) (id chainID, err error) {
	id.table.family, err = nlconn.GenAttrs(msg, func(a *nlconn.Attr) {
		switch a.Kind {
		case unix.NFTA_RULE_TABLE:
			id.table.name = a.Text()
		case unix.NFTA_RULE_CHAIN:
			id.name = a.Text()
		}
	})
	return id, err
}

// decodeRule decodes a rule except for its expressions, which keep referring to msg.
func decodeRule(msg []byte) (id chainID, r *rule, err error) {
	r = new(rule)
	if len(msg) > 0 {
		id.table.family, r.family = msg[0], msg[0]
	}
	for rest := msg[min(len(msg), nlconn.GenHeader):]; len(rest) > 0; {
		var kind uint16
		var data []byte
		if kind, data, rest, err = nlconn.Next(rest); err != nil {
			return id, nil, err
		}
		switch kind {
		case unix.NFTA_RULE_TABLE:
			id.table.name = unix.ByteSliceToString(data)
		case unix.NFTA_RULE_CHAIN:
			id.name = unix.ByteSliceToString(data)
		case unix.NFTA_RULE_HANDLE:
			if len(data) == 8 {
				r.handle = binary.BigEndian.Uint64(data)
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			r.rest = data
		case unix.NFTA_RULE_USERDATA:
			r.comment = comment(data)
		}
	}
	return id, r, err
}

// expr returns the expression at index i. Most rules of a large table fail at their
// first match, so the rest of a rule is decoded only when a packet gets there.
func (r *rule) expr(i int, known exprCache) (e namedExpr, ok bool, err error) {
	for i >= len(r.exprs) && len(r.rest) > 0 {
		var data []byte
		if _, data, r.rest, err = nlconn.Next(r.rest); err == nil {
			e, err = known.decode(r.family, data)
		}
		if err != nil {
			r.rest = nil
			e = namedExpr{name: "malformed"}
		}
		r.exprs = append(r.exprs, e)
	}
	if i >= len(r.exprs) {
		return e, false, err
	}
	return r.exprs[i], true, err
}

// all decodes all expressions.
func (r *rule) all(known exprCache) (exprs []namedExpr, err error) {
	for i := 0; ; i++ {
		if _, ok, err := r.expr(i, known); !ok || err != nil {
			return r.exprs, err
		}
	}
}

// content returns what the rule does, without its counter values.
func (r *rule) content(known exprCache) (exprs []expr.Any, err error) {
	all, err := r.all(known)
	for _, e := range all {
		if _, ok := e.expr.(*expr.Counter); ok {
			e.expr = &expr.Counter{}
		}
		exprs = append(exprs, e.expr)
	}
	return exprs, err
}
