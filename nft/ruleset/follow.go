package ruleset

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// A Single describes one packet in more detail than a Packet, which stands for packets
// to many ports. The only port of its Packet is the destination port, or for a reply
// the source port.
type Single struct {
	// Reply says that the server sends the packet. Later says that both directions of
	// the flow have had packets before.
	Reply, Later bool
	Flow         Flow
	Mark         Mark // of the packet
	// Reroute says that a chain of type route has changed something that routing
	// depends on.
	Reroute bool
	// Local reports whether an address belongs to this machine.
	Local func(netip.Addr) bool
	// Own is the address that redirect and masquerade use at this hook. If it is not
	// valid, the kernel drops the packet.
	Own netip.Addr
	// client is the client's port. sawClient says that a rule has looked at it.
	client    uint16
	sawClient bool
	// Pass, if not nil, reports whether the packet should pass a chain anyway.
	Pass func(Step) bool
}

// A Flow is what conntrack knows about the flow of a packet. Src and Dst are as the
// client sent them, From and To are the addresses after NAT.
type Flow struct {
	Src, From netip.Addr
	Dst, To   netip.AddrPort
	// SrcDone and DstDone say that NAT is settled, so that no more nat chains are
	// evaluated.
	SrcDone, DstDone bool
	Mark             Mark

	confirmed bool
}

// NewFlow returns the flow of a packet that has not passed any hook.
func NewFlow(src netip.Addr, dst netip.AddrPort) Flow {
	return Flow{Src: src, From: src, Dst: dst, To: dst}
}

// A Mark is a mark of a packet or of a flow.
type Mark struct {
	Value   uint32
	Unknown bool
}

// A Step is what one base chain does to a packet.
type Step struct {
	Chain Place // with Handle 0
	Type  nftables.ChainType
	Does  Does
	// At is the rule that does it. Its Handle is 0 if the policy does it or no rule
	// applies.
	At      Place
	Comment string // of the rule
	// Dst is the packet's destination when it enters the chain.
	Dst netip.Addr
	// To is the new destination or source. A part is zero if a rule computes it.
	To netip.AddrPort
	// Sure says that the chain certainly does so. Otherwise it may let the packet pass.
	Sure bool
	// Owned says that only the process that owns the table can change it.
	Owned bool
}

// Does is what a chain does to a packet.
type Does string

// The possible values. Passes means that the packet goes on to the next chain.
const (
	Passes      Does = "pass"   // by its policy
	Accepts     Does = "accept" // by a rule
	Drops       Does = "drop"   // or reject
	Translates  Does = "dnat"
	Redirects   Does = "redirect"
	Masquerades Does = "masquerade" // or any source NAT
	Skipped     Does = "skip"       // a nat chain, when the flow already has its NAT
)

// Follow returns what the chains at p's hook do to a single packet, one after the
// other, up to the chain that drops it. Our own table is included. After a step that is
// not Sure, Follow assumes that the packet passes.
//
// after and end describe the packet at the end: addresses and marks may have changed.
//
// If two chains in different tables have the same priority, their order depends on which
// is older, and the kernel does not show that. If the order matters, the result is not
// sure.
//
// The system chooses the client's port. Follow tries the first and the last possible
// port. If the results differ, the result is not sure either.
func (rs *Ruleset) Follow(p Packet, one Single) (steps []Step, after Packet, end Single) {
	one.client, one.sawClient = firstClient, false
	f := rs.inAnyOrder(p, one)
	if f.end.sawClient {
		one.client = lastClient
		f = f.or(rs.inAnyOrder(p, one))
	}
	return f.steps, f.after, f.end
}

// The range of client ports that Linux (ip_local_port_range) and Windows choose from.
const firstClient, lastClient = 32768, 65535

// inAnyOrder is Follow for one client port.
func (rs *Ruleset) inAnyOrder(p Packet, one Single) course {
	chains := rs.at(p.Hook)
	f := rs.follow(p, one, chains)
	if turnTies(chains) {
		f = f.or(rs.follow(p, one, chains))
	}
	return f
}

// A course is the result of following a packet.
type course struct {
	steps []Step
	after Packet
	end   Single
}

// drops reports whether the packet is certainly dropped.
func (f course) drops() bool {
	return len(f.steps) > 0 && f.steps[len(f.steps)-1].Sure && f.steps[len(f.steps)-1].Does == Drops
}

// or merges two possible courses of the same packet.
func (f course) or(g course) course {
	f.end.sawClient = f.end.sawClient || g.end.sawClient
	switch {
	case f.drops() && g.drops():
		return f
	case f.drops():
		f.after, f.end = g.after, g.end
		f.steps[len(f.steps)-1].Sure = false
	case g.drops():
		f.steps = g.steps
		f.steps[len(f.steps)-1].Sure = false
	default:
		for i, s := range f.steps {
			at := slices.IndexFunc(g.steps, func(o Step) bool { return o.Chain == s.Chain })
			// Passing a chain and being exempt from it have the same effect.
			same := at >= 0 && (s == g.steps[at] || s.passes() && g.steps[at].passes())
			f.steps[i].Sure = s.Sure && same
		}
	}
	if f.end.Mark != g.end.Mark {
		f.end.Mark = Mark{Unknown: true}
	}
	if f.end.Flow.Mark != g.end.Flow.Mark {
		f.end.Flow.Mark = Mark{Unknown: true}
	}
	return f
}

// passes reports whether the packet certainly goes on unchanged.
func (s Step) passes() bool {
	return s.Sure && (s.Does == Passes || s.Does == Accepts || s.Does == Skipped)
}

// turnTies reverses the order of chains with equal priority. It reports whether such
// chains are in different tables.
func turnTies(chains []*chain) (turned bool) {
	for i := 0; i < len(chains); {
		first, n := chains[i], 1
		for ; i+n < len(chains); n++ {
			c := chains[i+n]
			if c.priority != first.priority || (c.kind == nftables.ChainTypeNAT) != (first.kind == nftables.ChainTypeNAT) {
				break
			}
			turned = turned || c.table != first.table
		}
		slices.Reverse(chains[i : i+n])
		i += n
	}
	return turned
}

// follow is Follow for chains in a given order.
func (rs *Ruleset) follow(p Packet, one Single, chains []*chain) course {
	var steps []Step
	p.one, one.Reroute = &one, false
	atDst := p.Hook == *nftables.ChainHookPrerouting || p.Hook == *nftables.ChainHookOutput
	settled := &one.Flow.SrcDone
	switch {
	case atDst:
		settled = &one.Flow.DstDone
	case p.Hook == *nftables.ChainHookForward:
		settled = new(bool) // no NAT at this hook
	}
	known, passed := *settled, false
	nat := func() { // what the kernel does at the priority of its nat hook
		if !passed && known {
			p.translate(atDst)
		}
		passed = true
	}
	for _, c := range chains {
		if rs.dormant[c.table] {
			continue
		}
		isNAT := c.kind == nftables.ChainTypeNAT
		if isNAT || c.priority > natSlot(p.Hook) {
			nat()
			*settled = *settled || !isNAT // keep the current addresses
		}
		if isNAT && *settled {
			steps = append(steps, Step{Chain: Place{chainID: c.chainID}, Type: c.kind, Does: Skipped, At: Place{chainID: c.chainID}, Sure: true})
			continue
		}
		mark := one.Mark
		step := rs.step(p, c)
		if one.Pass != nil && one.Pass(step) {
			step.Does, step.Sure = Accepts, true
		}
		steps = append(steps, step)
		one.Reroute = one.Reroute || c.kind == nftables.ChainTypeRoute && mark != one.Mark
		switch {
		case !step.Sure:
		case step.Does == Drops:
			return course{steps, p, one}
		case step.Does == Translates, step.Does == Redirects:
			one.Flow.To, *settled = step.To, true
			p.translate(true)
		case step.Does == Masquerades:
			one.Flow.From, *settled = step.To.Addr(), true
			p.translate(false)
		}
	}
	nat()
	*settled = true
	one.Flow.confirmed = one.Flow.confirmed || p.Hook == *nftables.ChainHookInput || p.Hook == *nftables.ChainHookPostrouting
	return course{steps, p, one}
}

// translate gives p the addresses that its flow has after a NAT hook. dst selects the
// hook that changes the destination of the client's packets, otherwise it is the
// source.
func (p *Packet) translate(dst bool) {
	f := p.one.Flow
	port := func(n uint16) {
		for was := range p.Ports.All() {
			p.Ports = PortSet(Port{was.Proto, n})
		}
	}
	switch {
	case dst && p.one.Reply:
		p.Dst = f.Src
	case dst:
		p.Dst = f.To.Addr()
		port(f.To.Port())
	case p.one.Reply:
		p.Src = f.Dst.Addr()
		port(f.Dst.Port())
	default:
		p.Src = f.From
	}
}

// step returns what c does to p.
func (rs *Ruleset) step(p Packet, c *chain) Step {
	w := &walker{rs: rs, packet: p, base: c}
	ends := w.chain(c, p.Ports, way{sure: true})
	policy := Place{chainID: c.chainID}
	out := Step{Chain: policy, At: policy, Type: c.kind, Dst: p.Dst, Does: Passes, Sure: !w.strange, Owned: rs.owners[c.table] != 0}
	can := map[Does]bool{} // out reports the gravest effect, and the first rule that causes it
	may := func(o Outcome) {
		does, to := doesOf(o.Fate), p.resolve(o)
		// Two rules with different targets are not sure. Neither is a rule that
		// computes the target.
		out.Sure = out.Sure && (does == Drops || to.Addr().IsValid() && (!can[does] || out.To == to))
		if !can[does] && !can[Drops] {
			out.Does, out.At, out.To = does, o.At, to
		}
		can[does] = true
	}
	for _, o := range w.outcomes {
		may(o)
	}
	if c.drop && !ends.fell.Empty() {
		may(Outcome{Fate: Dropped, At: policy})
	}
	if !ends.accepted.Empty() || !c.drop && !ends.fell.Empty() {
		if len(can) == 0 && ends.fell.Empty() && len(w.accepts) > 0 {
			out.Does, out.At = Accepts, w.accepts[len(w.accepts)-1]
		}
		can[Passes] = true
	}
	out.Sure = out.Sure && len(can) == 1
	out.Comment = rs.commentOf(out.At)
	return out
}

// resolve returns the address and port that a translation results in.
func (p *Packet) resolve(o Outcome) netip.AddrPort {
	to := o.To
	for port := range p.Ports.All() {
		switch {
		case to.Port() == 0:
			to = netip.AddrPortFrom(to.Addr(), port.Number)
		case o.Base != 0:
			to = netip.AddrPortFrom(to.Addr(), to.Port()+port.Number-o.Base)
		}
	}
	return to
}

func doesOf(f Fate) Does {
	return map[Fate]Does{Dropped: Drops, Translated: Translates, Redirected: Redirects, Masked: Masquerades}[f]
}

// commentOf returns the comment of a rule.
func (rs *Ruleset) commentOf(at Place) string {
	c := rs.chains[at.chainID]
	if c == nil || at.Handle == 0 {
		return ""
	}
	rules, _ := rs.rulesOf(c)
	if i := slices.IndexFunc(rules, func(r *rule) bool { return r.handle == at.Handle }); i >= 0 {
		return rules[i].comment
	}
	return ""
}

// Comment returns the comment of the rule with that handle. table includes the family,
// as in "inet filter".
func (rs *Ruleset) Comment(table, chain string, handle uint64) string {
	for id := range rs.chains {
		if id.name == chain && id.table.Family()+" "+id.table.name == table {
			return rs.commentOf(Place{id, handle})
		}
	}
	return ""
}
