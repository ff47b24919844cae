package ruleset

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// A Single is what is known of one packet, where a Packet stands for those to many
// ports. The one port of its Packet is the destination's, or of a reply the source's.
type Single struct {
	// Reply says that the server sends the packet, Later that its direction has had
	// one before, and the other too.
	Reply, Later bool
	Flow         Flow
	Mark         Mark // of the packet
	// Reroute says that a chain of the type route has changed what the routes look at.
	Reroute bool
	// Local reports whether an address is one of this machine.
	Local func(netip.Addr) bool
	// Own is the address that redirect and masquerade take at this hook. If it is not
	// valid, the kernel drops the packet.
	Own netip.Addr
	// client is the client's port, and sawClient says that a rule has asked for it.
	client    uint16
	sawClient bool
	// Pass, if it is not nil, reports whether the packet shall pass a chain all the same.
	Pass func(Step) bool
}

// A Flow is what conntrack knows of the flow of a packet: Src and Dst are those of the
// client, From and To what NAT has made of them.
type Flow struct {
	Src, From netip.Addr
	Dst, To   netip.AddrPort
	// SrcDone and DstDone say that NAT is settled, so that no chain is asked any more.
	SrcDone, DstDone bool
	Mark             Mark

	confirmed bool
}

// NewFlow is the flow of a packet that no hook has seen.
func NewFlow(src netip.Addr, dst netip.AddrPort) Flow {
	return Flow{Src: src, From: src, Dst: dst, To: dst}
}

// A Mark is a mark of a packet or of a flow.
type Mark struct {
	Value   uint32
	Unknown bool
}

// A Step is what one chain with a hook does to a packet.
type Step struct {
	Chain Place // with Handle 0
	Type  nftables.ChainType
	Does  Does
	// At is the rule that does it. Its Handle is 0 if it is the policy, or that no rule
	// applies.
	At      Place
	Comment string // of the rule
	// Dst is the destination with which the packet comes to the chain.
	Dst netip.Addr
	// To is the new destination or source; its parts are zero where a rule computes them.
	To netip.AddrPort
	// Sure says that it does so. Otherwise it may, or let the packet pass.
	Sure bool
	// Owned says that only the process that owns the table can change it.
	Owned bool
}

// Does is what a chain does to a packet.
type Does string

// What there is. To pass is to be let through to the next chain.
const (
	Passes      Does = "pass"   // by its policy
	Accepts     Does = "accept" // by a rule
	Drops       Does = "drop"   // or reject
	Translates  Does = "dnat"
	Redirects   Does = "redirect"
	Masquerades Does = "masquerade" // or any source NAT
	Skipped     Does = "skip"       // a chain of nat, for a flow that has its NAT
)

// Follow tells what the chains at the hook of p do to a single packet, one after the
// other, up to that which drops it. Our own table is among them. An unsure step is
// course by what happens if it lets the packet pass.
//
// It returns the packet as it is then: addresses and marks may have changed.
//
// Which of two chains of one priority, in different tables, comes first depends on which
// is older, and that shows nowhere. Where it makes a difference nothing is sure.
//
// Of the port of the client nothing is known but that the system chooses it. Where the first
// and the last that it may choose fare differently, nothing is sure either.
func (rs *Ruleset) Follow(p Packet, one Single) (steps []Step, after Packet, end Single) {
	one.client, one.sawClient = firstClient, false
	f := rs.inAnyOrder(p, one)
	if f.end.sawClient {
		one.client = lastClient
		f = f.or(rs.inAnyOrder(p, one))
	}
	return f.steps, f.after, f.end
}

// The ports that clients have, as Linux (ip_local_port_range) and Windows choose them.
const firstClient, lastClient = 32768, 65535

// inAnyOrder is Follow for a client's port.
func (rs *Ruleset) inAnyOrder(p Packet, one Single) course {
	chains := rs.at(p.Hook)
	f := rs.follow(p, one, chains)
	if turnTies(chains) {
		f = f.or(rs.follow(p, one, chains))
	}
	return f
}

// A course is what becomes of a packet.
type course struct {
	steps []Step
	after Packet
	end   Single
}

// drops reports whether the packet gets no further.
func (f course) drops() bool {
	return len(f.steps) > 0 && f.steps[len(f.steps)-1].Sure && f.steps[len(f.steps)-1].Does == Drops
}

// or is what becomes of a packet that fares in one of two ways.
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
			// To pass a chain and to be spared it come to the same.
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

// passes reports whether the packet is as it was.
func (s Step) passes() bool {
	return s.Sure && (s.Does == Passes || s.Does == Accepts || s.Does == Skipped)
}

// turnTies turns the order of chains of one priority round, and reports whether there
// are some in different tables.
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

// follow is Follow for chains in this order.
func (rs *Ruleset) follow(p Packet, one Single, chains []*chain) course {
	var steps []Step
	p.one, one.Reroute = &one, false
	atDst := p.Hook == *nftables.ChainHookPrerouting || p.Hook == *nftables.ChainHookOutput
	settled := &one.Flow.SrcDone
	switch {
	case atDst:
		settled = &one.Flow.DstDone
	case p.Hook == *nftables.ChainHookForward:
		settled = new(bool) // NAT is not done there
	}
	known, passed := *settled, false
	nat := func() { // what the kernel does where its nat hook stands
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
			*settled = *settled || !isNAT // with the addresses that it has
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

// translate gives p the addresses that its flow has behind a hook of NAT: one at which
// the destination of what the client sends is changed, or its source.
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

// step is what c does to p.
func (rs *Ruleset) step(p Packet, c *chain) Step {
	w := &walker{rs: rs, packet: p, base: c}
	ends := w.chain(c, p.Ports, way{sure: true})
	policy := Place{chainID: c.chainID}
	out := Step{Chain: policy, At: policy, Type: c.kind, Dst: p.Dst, Does: Passes, Sure: !w.strange, Owned: rs.owners[c.table] != 0}
	can := map[Does]bool{} // and with it what is told: the gravest, by the first rule that does it
	may := func(o Outcome) {
		does, to := doesOf(o.Fate), p.resolve(o)
		// Of two that send it to different places neither is sure, nor is one that computes
		// the place.
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

// resolve is the address and port that a translation gives.
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

// commentOf is the comment of a rule.
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

// Comment is the comment of the rule with a handle in a chain of a table, as in "inet
// filter".
func (rs *Ruleset) Comment(table, chain string, handle uint64) string {
	for id := range rs.chains {
		if id.name == chain && id.table.Family()+" "+id.table.name == table {
			return rs.commentOf(Place{id, handle})
		}
	}
	return ""
}
