package ruleset

import (
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// A namedExpr is an expression of a rule. The library silently omits expressions that
// it does not know, and an omitted match would count as one that always holds. So such
// expressions are kept here without content.
type namedExpr struct {
	name string
	expr expr.Any // nil: not understood
}

// An exprCache caches expressions by family and bytes. An engine writes thousands of
// them, most are equal, and decoding takes longer than a lookup. Cached expressions are
// never changed. A nil cache keeps nothing.
type exprCache map[byte]map[string]namedExpr

func (known exprCache) decode(family byte, b []byte) (namedExpr, error) {
	if e, ok := known[family][string(b)]; ok {
		return e, nil
	}
	e, err := decodeExpr(family, b)
	if err == nil && known != nil {
		if known[family] == nil {
			known[family] = map[string]namedExpr{}
		}
		known[family][string(b)] = e
	}
	return e, err
}

func decodeExpr(family byte, b []byte) (e namedExpr, err error) {
	var data []byte
	err = nlconn.Attrs(b, func(a *nlconn.Attr) {
		switch a.Kind {
		case unix.NFTA_EXPR_NAME:
			e.name = a.Text()
		case unix.NFTA_EXPR_DATA:
			data = a.Data
		}
	})
	if err != nil {
		return e, err
	}
	x := newExpr(e.name)
	if x == nil || unmarshal(family, data, x) != nil {
		return e, nil // not understood: not an error
	}
	// An immediate for the verdict register is a verdict.
	if imm, ok := x.(*expr.Immediate); ok && imm.Register == unix.NFT_REG_VERDICT {
		x = new(expr.Verdict)
		if unmarshal(family, data, x) != nil {
			return e, nil
		}
	}
	e.expr = x
	return e, nil
}

// unmarshal is expr.Unmarshal without its panics: that trusts the lengths inside the
// data of xtables extensions.
func unmarshal(family byte, data []byte, e expr.Any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("malformed expression: %v", p)
		}
	}()
	return expr.Unmarshal(family, data, e)
}

// newExpr returns an empty expression if the walk understands it or our own table uses
// it.
func newExpr(name string) expr.Any {
	switch name {
	case "bitwise":
		return new(expr.Bitwise)
	case "cmp":
		return new(expr.Cmp)
	case "counter":
		return new(expr.Counter)
	case "ct":
		return new(expr.Ct)
	case "dynset":
		return new(expr.Dynset)
	case "fib":
		return new(expr.Fib)
	case "immediate":
		return new(expr.Immediate)
	case "lookup":
		return new(expr.Lookup)
	case "masq":
		return new(expr.Masq)
	case "match":
		return new(expr.Match)
	case "meta":
		return new(expr.Meta)
	case "nat":
		return new(expr.NAT)
	case "objref":
		return new(expr.Objref)
	case "payload":
		return new(expr.Payload)
	case "range":
		return new(expr.Range)
	case "redir":
		return new(expr.Redir)
	case "reject":
		return new(expr.Reject)
	case "target":
		return new(expr.Target)
	}
	return nil
}
