package nft

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// An Accept is a rule of ours in somebody else's chain. It accepts what comes
// from Windows for a port of 127.0.0.1, ahead of a rule that drops what does not
// come from Linux's own loopback.
//
// Docker 28 and later drops at the hook prerouting, before any NAT, what is for
// a port published on 127.0.0.1 and did not come by lo. It makes an exception of
// loopback0 if that is there when dockerd starts, and only then (moby#53382).
type Accept struct {
	place // of the rule itself, or for a new one of the rule to be ahead of
	Port  Port
	iface string
}

// String is for people.
func (a Accept) String() string {
	return fmt.Sprintf("%s in %s %s", a.Port, a.table.name, a.name)
}

// acceptComment is by which our rules in the tables of others are recognized.
const acceptComment = "wslmirror: from Windows is from localhost"

// ours reports whether the rule is one of ours in a table of others.
func (r *rule) ours() bool { return r.comment == acceptComment }

// another is a link that no rule names.
var another = Iface{Name: "another", Index: 1 << 30}

// accepts finds out which rules of ours are missing, and which of those that are
// there have no reason any more or no effect.
//
// A drop is meant for us if it hits what comes by loopback0 and by any other
// link alike, and not what comes by lo: then it tells loopback from the rest,
// and does not know that loopback0 is loopback. A rule that somebody wrote
// against loopback0 alone stays in force.
func (rs *Ruleset) accepts(fromWindows Packet) (missing, surplus []Accept) {
	dropped := func(by Iface, sees view) (Ports, []Outcome) {
		p := fromWindows
		p.Iif = by
		var spans []span
		var outcomes []Outcome
		for _, o := range rs.walk(p, sees).outcomes {
			if o.Fate == Dropped && o.Sure && o.at.handle != 0 {
				outcomes = append(outcomes, o)
				spans = append(spans, o.Ports...)
			}
		}
		return Ports(spans).normal(), outcomes
	}
	hit, _ := dropped(fromWindows.Iif, notOurs)
	var needed Ports
	if !hit.Empty() {
		others, _ := dropped(another, notOurs)
		lo, _ := dropped(Iface{Name: "lo", Index: 1}, notOurs)
		needed = hit.Intersect(others).Minus(lo)
	}
	// Only a rule that drops what comes by any link is one to be ahead of.
	generic := map[place]Ports{}
	_, drops := dropped(another, onlyFilter)
	for _, o := range drops {
		generic[o.at] = generic[o.at].Union(o.Ports)
	}
	_, still := dropped(fromWindows.Iif, onlyFilter)
	lacking := map[chainID]Ports{} // where a rule of ours has no effect
	for _, o := range still {
		ports := o.Ports.Intersect(needed).Intersect(generic[o.at])
		if ports.Len() > most {
			continue // not a rule for a published port
		}
		lacking[o.at.chainID] = lacking[o.at.chainID].Union(ports)
		for p := range ports.All() {
			missing = append(missing, Accept{place: o.at, Port: p, iface: fromWindows.Iif.Name})
		}
	}
	for _, a := range rs.Accepts() {
		if !needed.Has(a.Port) || lacking[a.chainID].Has(a.Port) || a.iface != fromWindows.Iif.Name {
			surplus = append(surplus, a)
		}
	}
	return missing, surplus
}

// Accepts lists our rules in the tables of others.
func (rs *Ruleset) Accepts() (list []Accept) {
	for _, c := range rs.chains {
		for _, r := range c.rules {
			if r.ours() {
				list = append(list, Accept{place: place{c.chainID, r.handle}, Port: r.port(), iface: r.iface()})
			}
		}
	}
	slices.SortFunc(list, func(a, b Accept) int { return cmp.Compare(a.handle, b.handle) })
	return list
}

// port is the port that a rule of ours accepts.
func (r *rule) port() (p Port) {
	for _, e := range r.exprs {
		if c, ok := e.expr.(*expr.Cmp); ok {
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

// iface is the link of which a rule of ours accepts.
func (r *rule) iface() string {
	for _, e := range r.exprs {
		if c, ok := e.expr.(*expr.Cmp); ok && len(c.Data) == unix.IFNAMSIZ {
			return unix.ByteSliceToString(c.Data)
		}
	}
	return ""
}

// exprs are what iptables understands as well when it lists its chain.
func (a Accept) exprs() []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, a.iface)
	return slices.Concat([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
	}, matchAddr(ipDaddr, loopback), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{a.Port.Proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(a.Port.Number >> 8), byte(a.Port.Number)}},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictAccept},
	})
}

// ErrChanged says that the rules of others have changed since they were read.
var ErrChanged = errors.New("the rules have changed")

// PlaceAccepts adds rules of ours to the chains of others, and takes rules of
// ours away from them, in one transaction. They were read in that generation (see
// View): in another their handles may be those of other rules, and it returns
// ErrChanged.
func PlaceAccepts(generation uint32, add, remove []Accept) error {
	if len(add) == 0 && len(remove) == 0 {
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
	rule := func(a Accept) *nftables.Rule {
		table := &nftables.Table{Name: a.table.name, Family: nftables.TableFamily(a.table.family)}
		return &nftables.Rule{Table: table, Chain: &nftables.Chain{Name: a.name, Table: table}}
	}
	for _, a := range add {
		r := rule(a)
		r.Position, r.Exprs = a.handle, a.exprs()
		r.UserData = userdata.AppendString(nil, userdata.TypeComment, acceptComment)
		conn.InsertRule(r)
	}
	for _, a := range remove {
		r := rule(a)
		r.Handle = a.handle
		if err := conn.DelRule(r); err != nil {
			return fmt.Errorf("take back the rule for %s: %w", a, err)
		}
	}
	err = within(sock, func() error { return conn.FlushWithGenID(generation) })
	if errors.Is(err, unix.ERESTART) || errors.Is(err, unix.ENOENT) {
		return ErrChanged
	}
	if err != nil {
		return fmt.Errorf("change the rules for loopback0 in the tables of others: %w", err)
	}
	return nil
}
