package ruleset

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// The attributes of nf_tables.h that the libraries keep to themselves.
const (
	tableOwner      = 7 // NFTA_TABLE_OWNER
	setFlagInterval = 0x4
	setFlagMap      = 0x8
	setFlagConcat   = 0x80
	setElemKeyEnd   = 10 // NFTA_SET_ELEM_KEY_END
	elemFlagEnd     = 0x1
	elemFlagAll     = 0x2 // catch-all
)

func decodeTable(msg []byte) (t tableID, owner uint32, err error) {
	t.family, err = nlconn.GenAttrs(msg, func(a *nlconn.Attr) {
		switch a.Kind {
		case unix.NFTA_TABLE_NAME:
			t.name = a.Text()
		case tableOwner:
			owner = a.Uint32BE()
		}
	})
	return t, owner, err
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

func decodeRule(msg []byte, known exprCache) (id chainID, r *rule, err error) {
	r = new(rule)
	var list []byte
	id.table.family, err = nlconn.GenAttrs(msg, func(a *nlconn.Attr) {
		switch a.Kind {
		case unix.NFTA_RULE_TABLE:
			id.table.name = a.Text()
		case unix.NFTA_RULE_CHAIN:
			id.name = a.Text()
		case unix.NFTA_RULE_HANDLE:
			r.handle = a.Uint64BE()
		case unix.NFTA_RULE_EXPRESSIONS:
			list = a.Data
		case unix.NFTA_RULE_USERDATA:
			r.comment = comment(a.Data)
		}
	})
	if err != nil {
		return id, nil, err
	}
	err = nlconn.Attrs(list, func(a *nlconn.Attr) {
		a.Do(func(b []byte) error {
			e, err := known.decode(id.table.family, b)
			r.exprs = append(r.exprs, e)
			return err
		})
	})
	return id, r, err
}

// content is what the rule does, without what it has counted.
func (r *rule) content() (exprs []expr.Any) {
	for _, e := range r.exprs {
		if _, ok := e.expr.(*expr.Counter); ok {
			e.expr = &expr.Counter{}
		}
		exprs = append(exprs, e.expr)
	}
	return exprs
}
