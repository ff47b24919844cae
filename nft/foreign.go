package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A ForeignRule is a rule of ours in another program's chain. It accepts packets from
// Windows for a port of 127.0.0.1. It stands before a rule that drops packets which do
// not come from Linux's own loopback.
//
// Docker 28 and later drops packets for a port published on 127.0.0.1 that did not
// arrive on lo, at the hook prerouting and before NAT. It exempts loopback0 only if
// that link exists when dockerd starts (moby#53382).
type ForeignRule struct {
	// At is the place of the rule, or for a new rule the place of the rule to precede.
	At   ruleset.Place
	Port ruleset.Port
	link string
}

// String describes the rule for people.
func (r ForeignRule) String() string {
	return fmt.Sprintf("%s in %s %s", r.Port, r.At.Table(), r.At.Chain())
}

// foreignComment marks our rules in other programs' tables.
const foreignComment = "wslmirror: from Windows is from localhost"

// ForeignRules are our rules in other programs' tables, and the changes that they need.
type ForeignRules struct {
	// Present are the rules that exist. Remove are those among them that are no longer
	// needed or have no effect. Add are the missing ones.
	Present, Remove, Add []ForeignRule
	// Barred are missing rules that only the owner of the table could add.
	Barred []ForeignRule
}

// FindForeignRules finds our rules in other programs' tables, and those that should be
// there.
//
// A drop needs our rule if it drops packets that arrive on the link loopback and on any
// other link, but not on lo: such a rule distinguishes loopback from other links and
// does not know that loopback0 is loopback. A rule that somebody wrote against
// loopback0 alone stays in force. So does a drop that does not name 127.0.0.1: it
// closes a port and does not decide who may use localhost.
func FindForeignRules(rs *ruleset.Ruleset, loopback ruleset.Iface) (found ForeignRules) {
	for _, r := range rs.Commented(foreignComment) {
		found.Present = append(found.Present, ForeignRule{At: r.Place, Port: portOf(r.Exprs), link: linkOf(r.Exprs)})
	}
	dropped := func(by ruleset.Iface, see ruleset.Sight) (ports ruleset.Ports, outcomes []ruleset.Outcome) {
		for _, o := range rs.Walk(ruleset.FromWindows(by), see) {
			if o.Fate == ruleset.Dropped && o.Sure && o.At.Handle != 0 {
				outcomes = append(outcomes, o)
				ports = ports.Union(o.Ports)
			}
		}
		return ports, outcomes
	}
	lo := ruleset.Iface{Name: "lo", Index: 1}
	// meant are the ports that need a rule, lacking the rules for those ports that are
	// still dropped.
	missing := func(free bool) (meant ruleset.Ports, lacking []ForeignRule) {
		without := ruleset.Sight{Chains: ruleset.Filters, Without: foreignComment, Free: free}
		with := ruleset.Sight{Chains: ruleset.Filters, Free: free}
		if meant, _ = dropped(loopback, without); !meant.Empty() {
			others, _ := dropped(ruleset.Unnamed, without)
			own, _ := dropped(lo, without)
			meant = meant.Intersect(others).Minus(own)
		}
		// Our rule only has to precede a rule that drops packets from any link.
		generic := map[ruleset.Place]ruleset.Ports{}
		_, drops := dropped(ruleset.Unnamed, with)
		for _, o := range drops {
			generic[o.At] = generic[o.At].Union(o.Ports)
		}
		_, still := dropped(loopback, with)
		for _, o := range still {
			ports := o.Ports.Intersect(meant).Intersect(generic[o.At])
			if !o.ToAddr || ports.Len() > ruleset.MostPorts {
				continue // not a rule for a port published on 127.0.0.1
			}
			for p := range ports.All() {
				lacking = append(lacking, ForeignRule{At: o.At, Port: p, link: loopback.Name})
			}
		}
		return meant, lacking
	}
	// The kernel sends no event when it removes a table with its owner. So the result
	// must not depend on such tables.
	needed, lacking := missing(true)
	found.Add = lacking
	for _, r := range found.Present {
		useless := slices.ContainsFunc(lacking, func(l ForeignRule) bool { return l.Port == r.Port && l.At.InChain(r.At) })
		if !needed.Has(r.Port) || useless || r.link != loopback.Name {
			found.Remove = append(found.Remove, r)
		}
	}
	if rs.AnyOwned() {
		_, all := missing(false)
		found.Barred = slices.DeleteFunc(all, func(r ForeignRule) bool { return !rs.Owned(r.At) })
	}
	return found
}

// portOf returns the port that one of our rules accepts.
func portOf(exprs []expr.Any) (p ruleset.Port) {
	for _, e := range exprs {
		if c, ok := e.(*expr.Cmp); ok {
			switch len(c.Data) {
			case 1:
				p.Proto = c.Data[0]
			case 2:
				p.Number = uint16(c.Data[0])<<8 | uint16(c.Data[1])
			}
		}
	}
	return p
}

// linkOf returns the link from which one of our rules accepts packets.
func linkOf(exprs []expr.Any) string {
	for _, e := range exprs {
		if c, ok := e.(*expr.Cmp); ok && len(c.Data) == unix.IFNAMSIZ {
			return unix.ByteSliceToString(c.Data)
		}
	}
	return ""
}

// exprs returns expressions that iptables also understands when it lists the chain.
func (r ForeignRule) exprs() []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, r.link)
	return slices.Concat([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
	}, matchAddr(ipDaddr, loopback), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{r.Port.Proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(r.Port.Number >> 8), byte(r.Port.Number)}},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictAccept},
	})
}

// ErrChanged says that other programs' rules have changed since they were read.
var ErrChanged = errors.New("the rules have changed")

// A ForeignChange is a change to make in other programs' tables.
type ForeignChange struct{ Add, Remove []ForeignRule }

// Apply makes the change in one transaction. generation is the one in which the change
// was decided. In another generation the same handles may belong to other rules, so
// Apply then returns ErrChanged.
func (c ForeignChange) Apply(generation uint32) error {
	if len(c.Add)+len(c.Remove) == 0 {
		return nil
	}
	conn, sock, err := dial()
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	if err := enlarge(sock); err != nil {
		return err
	}
	rule := func(r ForeignRule) *nftables.Rule {
		table := &nftables.Table{Name: r.At.Table(), Family: r.At.TableFamily()}
		return &nftables.Rule{Table: table, Chain: &nftables.Chain{Name: r.At.Chain(), Table: table}}
	}
	for _, a := range c.Add {
		r := rule(a)
		r.Position, r.Exprs = a.At.Handle, a.exprs()
		r.UserData = userdata.AppendString(nil, userdata.TypeComment, foreignComment)
		conn.InsertRule(r)
	}
	for _, a := range c.Remove {
		r := rule(a)
		r.Handle = a.At.Handle
		if err := conn.DelRule(r); err != nil {
			return fmt.Errorf("remove the rule for %s: %w", a, err)
		}
	}
	err = within(sock, answerTimeout, func() error { return conn.FlushWithGenID(generation) })
	if errors.Is(err, unix.ERESTART) || errors.Is(err, unix.ENOENT) {
		return ErrChanged
	}
	if err != nil {
		return fmt.Errorf("change the tables of others: %w", err)
	}
	return nil
}
