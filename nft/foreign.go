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

// A ForeignRule is a rule of ours in somebody else's chain. It accepts what arrives
// from Windows for a port of 127.0.0.1, ahead of a rule that drops what does not
// come from Linux's own loopback.
//
// Docker 28 and later drops at the hook prerouting, before any NAT, what is for
// a port published on 127.0.0.1 and did not arrive on lo. It makes an exception of
// loopback0 if that is there when dockerd starts, and only then (moby#53382).
type ForeignRule struct {
	// At is the rule itself, or for a new one the rule to be ahead of.
	At   ruleset.Place
	Port ruleset.Port
	link string
}

// String is for people.
func (r ForeignRule) String() string {
	return fmt.Sprintf("%s in %s %s", r.Port, r.At.Table(), r.At.Chain())
}

// foreignComment is by which our rules in the tables of others are recognized.
const foreignComment = "wslmirror: from Windows is from localhost"

// ForeignRules are our rules in the tables of others, and what is to be changed of
// them.
type ForeignRules struct {
	// Present are those that are there. Remove are those among them that have no
	// reason any more or no effect, Add those that are missing.
	Present, Remove, Add []ForeignRule
	// Barred are those that are missing too, and that nobody but the owner of the
	// table could add.
	Barred []ForeignRule
}

// FindForeignRules finds out which rules of ours others' tables contain and should.
//
// A drop is meant for us if it hits what arrives on the link loopback and on any
// other link alike, and not what arrives on lo: then it tells loopback from the
// rest, and does not know that loopback0 is loopback. A rule that somebody wrote
// against loopback0 alone stays in force, and so does one that does not name
// 127.0.0.1: it closes a port, and is not about who may use localhost.
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
	// meant are the ports for which we have a reason, and lacking where nothing helps
	// them yet.
	missing := func(free bool) (meant ruleset.Ports, lacking []ForeignRule) {
		without := ruleset.Sight{Chains: ruleset.Filters, Without: foreignComment, Free: free}
		with := ruleset.Sight{Chains: ruleset.Filters, Free: free}
		if meant, _ = dropped(loopback, without); !meant.Empty() {
			others, _ := dropped(ruleset.Unnamed, without)
			own, _ := dropped(lo, without)
			meant = meant.Intersect(others).Minus(own)
		}
		// Only a rule that drops what arrives on any link is one to be ahead of.
		generic := map[ruleset.Place]ruleset.Ports{}
		_, drops := dropped(ruleset.Unnamed, with)
		for _, o := range drops {
			generic[o.At] = generic[o.At].Union(o.Ports)
		}
		_, still := dropped(loopback, with)
		for _, o := range still {
			ports := o.Ports.Intersect(meant).Intersect(generic[o.At])
			if !o.ToAddr || ports.Len() > ruleset.MostPorts {
				continue // not a rule for a port that is published on 127.0.0.1
			}
			for p := range ports.All() {
				lacking = append(lacking, ForeignRule{At: o.At, Port: p, link: loopback.Name})
			}
		}
		return meant, lacking
	}
	// The kernel says nothing when a table goes with its owner, so what we do does not
	// depend on those.
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

// portOf is the port that a rule of ours accepts.
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

// linkOf is the link of which a rule of ours accepts.
func linkOf(exprs []expr.Any) string {
	for _, e := range exprs {
		if c, ok := e.(*expr.Cmp); ok && len(c.Data) == unix.IFNAMSIZ {
			return unix.ByteSliceToString(c.Data)
		}
	}
	return ""
}

// exprs are what iptables understands as well when it lists its chain.
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

// ErrChanged says that the rules of others have changed since they were read.
var ErrChanged = errors.New("the rules have changed")

// A ForeignChange is what is to be changed in the tables of others.
type ForeignChange struct{ Add, Remove []ForeignRule }

// Apply carries c out, in one transaction. It was decided on in that generation: in
// another the handles of rules may be those of other rules. Then it returns ErrChanged.
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
