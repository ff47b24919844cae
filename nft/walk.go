package nft

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// A Packet is the first packet of a flow at one of the hooks, to all of a set of
// ports at once: the rules decide which of them go which way.
type Packet struct {
	Hook nftables.ChainHook // *nftables.ChainHookPrerouting or ChainHookOutput
	// Iif is the link by which it came, Oif the one by which it is about to
	// leave; the other is the zero Iface.
	Iif, Oif Iface
	Src, Dst netip.Addr // of IPv4; Dst is an address of this machine
	Ports    Ports      // where it goes
}

// An Iface names a link.
type Iface struct {
	Name  string
	Index int
}

// A Fate is what happens to a packet.
type Fate int

// The fates. What none of them names is accepted unchanged.
const (
	Dropped    Fate = iota
	Translated      // its destination is changed (dnat)
	Redirected      // its destination is changed to this machine's own (redirect)
)

// An Outcome is what the rules do to a packet to some ports.
type Outcome struct {
	Ports Ports
	Fate  Fate
	// To is the new destination, invalid if a rule computes it. Its port is 0 if
	// the port stays.
	To netip.AddrPort
	// Base, if not 0, is the port for which To stands: the ones behind it go to
	// the ports behind To's.
	Base uint16
	// Table and Chain are where it happens.
	Table, Chain string
	at           place
	// ToAddr says that a rule on the way names the packet's destination.
	ToAddr bool
	// Sure says that it happens. Otherwise it may: a match on the way was not
	// understood, or depends on more than the packet.
	Sure bool
}

// A place is a rule of a chain, or the chain's policy if handle is 0.
type place struct {
	chainID
	handle uint64
}

// maxDepth is more than the kernel allows chains to nest (NFT_JUMP_STACK_SIZE
// in include/net/netfilter/nf_tables.h, 16).
const maxDepth = 20

// Walk tells what the rules would do to a packet: chain after chain in the
// order of their priorities, through jumps, gotos and verdict maps. It reads
// nothing; the same rules always give the same outcomes. Our own table is left
// out.
//
// A match has three values: it holds, it does not, or it may. Where one may
// hold, both ways are followed, and what they come to is not Sure.
func (rs *Ruleset) Walk(p Packet) []Outcome { return rs.walk(p, everything) }

// view is what a walk sees.
type view int

const (
	everything  view = iota
	withoutOurs      // without the rules of ours in other tables
	onlyNAT          // only the chains that change addresses
)

func (rs *Ruleset) walk(p Packet, sees view) []Outcome {
	w := &walker{rs: rs, packet: p, sees: sees}
	rest := p.Ports
	for _, c := range rs.base {
		if c.hook != p.Hook || c.table.name == TableName || sees == onlyNAT && c.kind != nftables.ChainTypeNAT {
			continue
		}
		w.table = c.table // no jump leaves it
		ends := w.chain(c, rest, way{sure: true}, 0)
		if c.drop {
			w.record(Outcome{Ports: ends.fell, Fate: Dropped, at: place{chainID: c.chainID}}, way{sure: true})
			rest = ends.accepted
		} else {
			rest = ends.fell.Union(ends.accepted)
		}
	}
	return w.outcomes
}

type walker struct {
	rs       *Ruleset
	packet   Packet
	table    tableID // where the walk is
	outcomes []Outcome
	sees     view
	// doubt are the ports for which something may already have happened, so
	// that nothing after it is sure.
	doubt Ports
}

// A way is how a packet came to a rule.
type way struct {
	sure   bool
	toAddr bool // see Outcome.ToAddr
}

// ends is where the packets that a chain does not keep have gone.
type ends struct {
	fell     Ports // through the end of the chain, or returned
	accepted Ports // no further chain of this base chain sees them
}

// chain follows the packets through c.
func (w *walker) chain(c *chain, ports Ports, on way, depth int) (out ends) {
	if depth > maxDepth {
		w.doubt = w.doubt.Union(ports)
		return ends{fell: ports}
	}
	for _, r := range c.rules {
		if ports.Empty() {
			break
		}
		if w.sees == withoutOurs && r.ours() {
			continue
		}
		for _, h := range w.rule(r, ports) {
			at := way{sure: on.sure && h.sure, toAddr: on.toAddr || h.toAddr}
			e, onward := w.verdict(place{c.chainID, r.handle}, h, at, depth)
			left := h.ports.Minus(onward)
			if !h.sure {
				// They may have left the chain here, and they may go on.
				w.doubt = w.doubt.Union(left)
				continue
			}
			out.fell = out.fell.Union(e.fell)
			out.accepted = out.accepted.Union(e.accepted)
			ports = ports.Minus(left)
		}
	}
	out.fell = out.fell.Union(ports)
	return out
}

// verdict does what a rule says to the packets that it hits. It returns where
// they have left the chain, if they were not kept, and which of them go on to
// the next rule.
func (w *walker) verdict(at place, h hit, on way, depth int) (out ends, onward Ports) {
	if h.outcome != nil {
		o := *h.outcome
		o.Ports, o.at = h.ports, at
		w.record(o, on)
		return out, nil
	}
	switch h.verdict.Kind {
	case expr.VerdictDrop, expr.VerdictStolen, expr.VerdictQueue:
		w.record(Outcome{Ports: h.ports, Fate: Dropped, at: at}, on)
		return out, nil
	case expr.VerdictAccept, expr.VerdictStop:
		return ends{accepted: h.ports}, nil
	case expr.VerdictReturn:
		return ends{fell: h.ports}, nil
	case expr.VerdictJump, expr.VerdictGoto:
		next := w.rs.chains[chainID{at.table, h.verdict.Chain}]
		if next == nil { // it was made in between
			w.doubt = w.doubt.Union(h.ports)
			return out, h.ports
		}
		sub := w.chain(next, h.ports, on, depth+1)
		if h.verdict.Kind == expr.VerdictGoto {
			return sub, nil
		}
		return ends{accepted: sub.accepted}, sub.fell
	}
	return out, h.ports // continue, break
}

// record notes an outcome, apart for the ports for which it is sure.
func (w *walker) record(o Outcome, on way) {
	o.Table, o.Chain, o.ToAddr = o.at.table.name, o.at.name, on.toAddr
	all := o.Ports
	if on.sure {
		if o.Ports = all.Minus(w.doubt); !o.Ports.Empty() {
			o.Sure = true
			w.outcomes = append(w.outcomes, o)
		}
		all = all.Intersect(w.doubt)
	}
	if o.Ports = all; !o.Ports.Empty() {
		o.Sure = false
		w.outcomes = append(w.outcomes, o)
	}
}

// A hit is some of a rule's packets for which all its matches hold, or may, and
// what the rule does to them: a verdict or an outcome.
type hit struct {
	ports   Ports
	sure    bool
	toAddr  bool
	verdict *expr.Verdict
	outcome *Outcome // without its Ports
}

// rule evaluates r for the packets.
func (w *walker) rule(r *rule, ports Ports) []hit {
	branches := []branch{{hit: hit{ports: ports, sure: true}}}
	var hits []hit
	for _, e := range r.exprs {
		var next []branch
		for i := range branches {
			next, hits = w.eval(&branches[i], e, next, hits)
		}
		if branches = next; len(branches) == 0 {
			break
		}
	}
	return hits
}
