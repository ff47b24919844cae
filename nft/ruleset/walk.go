package ruleset

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A Packet is the first packet of a flow at a hook, to a whole set of ports at once:
// the rules decide what happens for which port. Or it is the first reply from all these
// ports.
type Packet struct {
	Hook nftables.ChainHook // *nftables.ChainHookPrerouting, ChainHookOutput or ChainHookInput
	// Iif is the link on which the packet arrived, Oif the link through which it is
	// about to leave. The other one is the zero Iface.
	Iif, Oif Iface
	Src, Dst netip.Addr // of IPv4; Dst is an address of this machine
	Ports    Ports      // the destination ports
	// forwarded is where the packet goes after its translation. Hook is then the hook
	// forward. For a reply it is where the packet comes from.
	forwarded *forwarded
	reply     bool
	// one is set for a single packet: see Follow.
	one *Single
}

// An Iface names a link.
type Iface struct {
	Name  string
	Index int
}

// A Fate is what happens to a packet.
type Fate int

// The fates. Packets without a fate are accepted unchanged.
const (
	Dropped    Fate = iota
	Translated      // its destination is changed (dnat)
	Redirected      // its destination is changed to this machine's own (redirect)
	Masked          // its source is changed; only for a single packet
)

// An Outcome is what the rules do to a packet to some ports.
type Outcome struct {
	Ports Ports
	Fate  Fate
	// To is the new destination, invalid if a rule computes it. Its port is 0 if the
	// port does not change.
	To netip.AddrPort
	// Base, if not 0, is the original port that corresponds to To's port. The ports
	// after Base go to the ports after To's.
	Base uint16
	// At is the rule that does it.
	At Place
	// ToAddr says that a rule on the path names the packet's destination.
	ToAddr bool
	// Sure says that it happens. Otherwise it may: a match on the path was not
	// understood, or depends on more than the packet.
	Sure bool
}

// maxDepth is more than the depth to which the kernel lets chains nest
// (NFT_JUMP_STACK_SIZE in include/net/netfilter/nf_tables.h, 16).
const maxDepth = 20

// maxSteps limits the rules that one walk evaluates: a chain that is the target of
// several jumps is walked several times.
const maxSteps = 1 << 17

// A Sight is the part of the ruleset that a walk sees.
type Sight struct {
	Chains Chains
	// Without is the comment of rules to skip.
	Without string
	// Free skips tables that a process owns.
	Free bool
}

// Chains selects the chains that a walk goes through.
type Chains int

// The kinds of chains.
const (
	All     Chains = iota
	NAT            // only the chains that change addresses
	Filters        // only those that do not
	// Intended selects the chains that change addresses, to find out what their authors
	// mean to translate. In the table that all users of iptables share, no rule that
	// somebody has put before an engine's jump keeps packets from it.
	Intended
)

// Walk returns what the rules would do to a packet. It goes through the chains in the
// order of their priorities, and through jumps, gotos and verdict maps. The same rules
// always give the same outcomes. Our own table is left out.
//
// A match has three values: it holds, it does not hold, or it may hold. If it may hold,
// both cases are followed, and their outcomes are not Sure.
func (rs *Ruleset) Walk(p Packet, see Sight) []Outcome { return rs.walk(p, see).outcomes }

func (rs *Ruleset) walk(p Packet, see Sight) *walker {
	w := &walker{rs: rs, packet: p, see: see}
	rest := p.Ports
	for _, c := range rs.chainsOf(p) {
		if c.table == rs.own || rs.dormant[c.table] || see.Free && rs.owners[c.table] != 0 || see.Chains != All && (see.Chains != Filters) != (c.kind == nftables.ChainTypeNAT) {
			continue
		}
		w.base, w.left = c, nil
		ends := w.chain(c, rest, way{sure: true})
		switch {
		case see.Chains == Intended:
		case c.drop:
			w.record(Outcome{Ports: ends.fell, Fate: Dropped, At: Place{chainID: c.chainID}}, way{sure: true})
			rest = ends.accepted
		default:
			rest = ends.fell.Union(ends.accepted)
		}
	}
	return w
}

// sharedNAT is the table that all users of iptables write to.
var sharedNAT = tableID{unix.NFPROTO_IPV4, "nat"}

// passesOver reports whether the walk ignores what the rules of c do and goes on.
func (w *walker) passesOver(c *chain) bool {
	return w.see.Chains == Intended && c.hooked && c.table == sharedNAT
}

// chainsOf returns the base chains that a packet goes through, in order.
func (rs *Ruleset) chainsOf(p Packet) []*chain {
	if p.forwarded == nil {
		return rs.at(p.Hook)
	}
	// A packet translated at the hook prerouting still has to pass the rest of that
	// hook.
	after := slices.DeleteFunc(rs.at(*nftables.ChainHookPrerouting), func(c *chain) bool {
		return c.kind == nftables.ChainTypeNAT || c.priority <= *nftables.ChainPriorityNATDest
	})
	return append(after, rs.at(p.Hook)...)
}

// at returns the base chains at a hook in the order in which the kernel runs them. It
// runs all nat chains at one place, in the order of their priorities
// (nf_nat_register_fn in net/netfilter/nf_nat_core.c). It puts a new chain before older
// ones of the same priority (nf_hook_entries_grow in net/netfilter/core.c).
func (rs *Ruleset) at(hook nftables.ChainHook) (list []*chain) {
	for _, c := range slices.Backward(rs.base) {
		if c.hook == hook {
			list = append(list, c)
		}
	}
	runsAt := func(c *chain) nftables.ChainPriority {
		if c.kind == nftables.ChainTypeNAT {
			return natSlot(hook)
		}
		return c.priority
	}
	slices.SortStableFunc(list, func(a, b *chain) int {
		return cmp.Or(cmp.Compare(runsAt(a), runsAt(b)), cmp.Compare(a.priority, b.priority))
	})
	return list
}

// natSlot is the priority at which the kernel runs the nat chains of a hook
// (nf_nat_ipv4_ops in net/netfilter/nf_nat_proto.c).
func natSlot(hook nftables.ChainHook) nftables.ChainPriority {
	if hook == *nftables.ChainHookPrerouting || hook == *nftables.ChainHookOutput {
		return *nftables.ChainPriorityNATDest
	}
	return *nftables.ChainPriorityNATSource
}

type walker struct {
	rs       *Ruleset
	packet   Packet
	base     *chain // the current base chain; no jump leaves its table
	path     []*chain
	outcomes []Outcome
	see      Sight
	scratch  [2][]branch // for rule, reused by the next call
	steps    int         // the number of rules evaluated
	ports    Ports       // the ports that reached the rule
	// doubt are the ports to which something may already have happened, so that nothing
	// after it is sure. left are the ports that may have left the base chain.
	doubt, left Ports
	// zoned are the ports whose flow may be in another conntrack zone, so that no
	// translation of them is sure.
	zoned Ports
	// For a single packet: on is how it reached the rule, accepts are the rules that
	// accepted it, and strange says that something was not understood and may have any
	// effect.
	on      way
	accepts []Place
	strange bool
}

// A way is how a packet reached a rule.
type way struct {
	sure   bool
	toAddr bool // see Outcome.ToAddr
}

// ends are the packets that left a chain without an outcome.
type ends struct {
	fell     Ports // reached the end of the chain, or returned
	accepted Ports // no further chain of this base chain sees them
}

// chain follows the packets through c.
func (w *walker) chain(c *chain, ports Ports, on way) (out ends) {
	// The kernel has no loops, but a ruleset that changes while it is read may appear
	// to have one.
	if len(w.path) > maxDepth || w.steps > maxSteps || slices.Contains(w.path, c) {
		w.lost(ports)
		return ends{fell: ports}
	}
	w.path = append(w.path, c)
	defer func() { w.path = w.path[:len(w.path)-1] }()
	ports = slices.Clone(ports) // to remove from
	rules, ok := w.rs.rulesOf(c)
	if !ok {
		w.lost(ports)
		return ends{fell: ports}
	}
	for _, r := range rules {
		if ports.Empty() {
			break
		}
		if w.see.Without != "" && r.comment == w.see.Without {
			continue
		}
		w.steps++
		doubt, left := w.doubt, w.left
		w.on = on
		for _, h := range w.rule(r, ports) {
			at := way{sure: on.sure && h.sure, toAddr: on.toAddr || h.toAddr}
			e, onward := w.verdict(Place{c.chainID, r.handle}, h, at)
			if w.passesOver(c) {
				w.doubt, w.left = doubt, left // as if the rule did not exist
				continue
			}
			out.fell = out.fell.Union(e.fell)
			out.accepted = out.accepted.Union(e.accepted)
			gone := h.ports.Minus(onward)
			if !h.sure {
				// They may have left the chain here, or they may go on.
				w.left = w.left.Union(gone)
				continue
			}
			ports.remove(gone)
		}
	}
	out.fell = out.fell.Union(ports)
	return out
}

// lost records that it is unknown what happens to packets to these ports.
func (w *walker) lost(ports Ports) {
	w.doubt = w.doubt.Union(ports)
	w.strange = w.strange || !ports.Empty()
}

// verdict applies a rule to the packets that it hits. out are the packets that leave
// the chain, onward those that go on to the next rule.
func (w *walker) verdict(at Place, h hit, on way) (out ends, onward Ports) {
	if h.outcome != nil {
		o := *h.outcome
		o.Ports, o.At = h.ports, at
		w.record(o, on)
		return out, nil
	}
	switch h.verdict.Kind {
	case expr.VerdictDrop, expr.VerdictStolen, expr.VerdictQueue:
		w.record(Outcome{Ports: h.ports, Fate: Dropped, At: at}, on)
		return out, nil
	case expr.VerdictAccept, expr.VerdictStop:
		if w.packet.one != nil {
			w.accepts = append(w.accepts, at)
		}
		return ends{accepted: h.ports}, nil
	case expr.VerdictReturn:
		return ends{fell: h.ports}, nil
	case expr.VerdictJump, expr.VerdictGoto:
		next := w.rs.chains[chainID{at.table, h.verdict.Chain}]
		if next == nil { // added while the ruleset was read
			w.lost(h.ports)
			return out, h.ports
		}
		sub := w.chain(next, h.ports, on)
		if h.verdict.Kind == expr.VerdictGoto {
			return sub, nil
		}
		return ends{accepted: sub.accepted}, sub.fell
	}
	return out, h.ports // continue, break
}

// record records an outcome. It records the ports for which it is sure separately.
func (w *walker) record(o Outcome, on way) {
	o.ToAddr = on.toAddr
	all := o.Ports
	if on.sure {
		o.Ports = all.Minus(w.doubt).Minus(w.left)
		if o.Fate == Translated {
			o.Ports = o.Ports.Minus(w.zoned)
		}
		if !o.Ports.Empty() {
			o.Sure = true
			w.outcomes = append(w.outcomes, o)
		}
		all = all.Minus(o.Ports)
	}
	if o.Ports = all; !o.Ports.Empty() {
		o.Sure = false
		w.outcomes = append(w.outcomes, o)
		w.doubt = w.doubt.Union(o.Ports)
	}
}

// A hit is a set of packets for which all matches of a rule hold or may hold, and what
// the rule does to them: a verdict or an outcome.
type hit struct {
	ports   Ports
	sure    bool
	toAddr  bool
	verdict *expr.Verdict
	outcome *Outcome // without its Ports
}

// rule evaluates r for the packets. It does so for all ports and intersects the result
// with ports at the end: sets of many spans are costly to carry along.
func (w *walker) rule(r *rule, ports Ports) []hit {
	w.ports = ports
	branches, next := append(w.scratch[0][:0], branch{hit: hit{ports: AllPorts, sure: true}}), w.scratch[1]
	var hits []hit
	for i := 0; ; i++ {
		e, ok, err := r.expr(i, w.rs.known)
		if err != nil {
			w.rs.fail(fmt.Errorf("decode rule: %w", err))
		}
		if !ok {
			break
		}
		next = next[:0]
		for i := range branches {
			next, hits = w.eval(&branches[i], e, next, hits)
		}
		branches, next = next, branches
		if len(branches) == 0 {
			break
		}
	}
	w.scratch = [2][]branch{branches, next}
	for i := range hits {
		hits[i].ports = hits[i].ports.Intersect(ports)
	}
	return slices.DeleteFunc(hits, func(h hit) bool { return h.ports.Empty() })
}
