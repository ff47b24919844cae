package ruleset

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// A Single is what is known of one packet of a flow, where a Packet stands for those
// to many ports. Its Packet's Ports are the protocol and the one port that is known:
// that to which a request goes, and from which a reply comes.
type Single struct {
	// Reply says that the packet is a reply.
	Reply bool
	// DNAT and SNAT say that the flow has been translated.
	DNAT, SNAT bool
	// Away says that the destination is not an address of this machine.
	Away bool
}

// ct is what a ct expression loads.
func (s *Single) ct(key expr.CtKey, number func(uint32) []cell) []cell {
	direction := byte(0)
	state := uint32(expr.CtStateBitNEW)
	if s.Reply {
		direction, state = 1, uint32(expr.CtStateBitESTABLISHED)
	}
	switch key {
	case expr.CtKeySTATE:
		return number(state)
	case expr.CtKeyDIRECTION:
		return constant([]byte{direction})
	case expr.CtKeySTATUS:
		return s.status()
	}
	return unknown(maxValue)
}

// status is that of the flow, of which only what comes of NAT is known.
func (s *Single) status() []cell {
	if s.Reply {
		return unknown(4)
	}
	status := uint32(0)
	if s.DNAT {
		status |= ctStatusDNAT | ctStatusDNATDone
	}
	return constant(binary.NativeEndian.AppendUint32(nil, status))
}

// xtState is the state as xt_conntrack has it.
func (s *Single) xtState() (is uint16) {
	is = uint16(expr.CtStateBitNEW)
	if s.Reply {
		is = uint16(expr.CtStateBitESTABLISHED)
	}
	if s.DNAT {
		is |= xtStateDNAT
	}
	if s.SNAT {
		is |= xtStateSNAT
	}
	return is
}

// A Step is what one chain with a hook does to a packet.
type Step struct {
	// Chain is the chain, with Handle 0.
	Chain    Place
	Type     nftables.ChainType
	Hook     nftables.ChainHook
	Priority nftables.ChainPriority
	Does     Does
	// At is the rule that does it; its Handle is 0 if it is the policy, or that no rule
	// applies.
	At      Place
	Comment string // of the rule
	// To is the new destination of Translates; see Outcome.
	To netip.AddrPort
	// Sure says that it does so. Otherwise it may, or let the packet pass.
	Sure bool
}

// Does is what a chain does to a packet.
type Does int

// What there is. To pass is to be let through to the next chain.
const (
	Passes     Does = iota // by its policy
	Accepts                // by a rule
	Drops                  // or rejects
	Translates             // its destination is changed (dnat)
	Redirects              // its destination is changed to this machine's own (redirect)
	Skipped                // a chain of nat, for a flow that has its NAT
)

// Follow tells what the chains at the hook of p do to a single packet, one after the
// other, up to that which drops it. Our own table is among them. An unsure step is
// followed by what happens if it lets the packet pass.
//
// It returns the packet as it is then: its destination may be another one. done says
// that the flow has its NAT at this hook.
func (rs *Ruleset) Follow(p Packet, one Single) (steps []Step, after Packet, done bool) {
	p.one = &one
	done = one.Reply
	for _, c := range rs.at(p.Hook) {
		if rs.dormant[c.table] {
			continue
		}
		step := Step{Chain: Place{chainID: c.chainID}, Type: c.kind, Hook: c.hook, Priority: c.priority, Sure: true}
		isNAT := c.kind == nftables.ChainTypeNAT
		if isNAT && done {
			step.Does = Skipped
			steps = append(steps, step)
			continue
		}
		rs.step(p, c, &step)
		steps = append(steps, step)
		if !step.Sure {
			continue
		}
		switch step.Does {
		case Drops:
			return steps, p, done
		case Translates, Redirects:
			done = true
			p = p.translated(step)
		}
	}
	return steps, p, done
}

// translated is p after a step that changes its destination. What is not known of that
// stays as it is.
func (p Packet) translated(s Step) Packet {
	one := *p.one
	p.one = &one
	was := p.Dst
	if s.Does == Redirects {
		p.Dst = Localhost // or at the hook prerouting an address of the link
	}
	if s.To.Addr().IsValid() {
		p.Dst = s.To.Addr()
	}
	for port := range p.Ports.All() {
		if s.To.Port() != 0 && s.To.Port() != port.Number {
			p.Ports = PortSet(Port{port.Proto, s.To.Port()})
			one.DNAT = true
		}
	}
	one.DNAT = one.DNAT || p.Dst != was
	return p
}

// step fills in what c does to p.
func (rs *Ruleset) step(p Packet, c *chain, out *Step) {
	w := &walker{rs: rs, packet: p, base: c}
	ends := w.chain(c, p.Ports, way{sure: true})
	for _, o := range w.outcomes {
		out.Does, out.At, out.To, out.Sure = doesOf(o.Fate), o.At, o.To, o.Sure
		if to := o.To; o.Base != 0 && to.IsValid() {
			for port := range p.Ports.All() {
				out.To = netip.AddrPortFrom(to.Addr(), to.Port()+port.Number-o.Base)
			}
		}
		out.Comment = rs.commentOf(o.At)
		if o.Sure {
			return
		}
		break // of several that may happen, the first
	}
	if len(w.outcomes) > 0 {
		// What is maybe rejected and otherwise dropped is lost.
		kept := func(o Outcome) bool { return o.Fate != Dropped }
		out.Sure = c.drop && len(w.accepts) == 0 && !slices.ContainsFunc(w.outcomes, kept)
		return
	}
	out.Sure = w.doubt.Empty()
	switch {
	case ends.fell.Empty() && len(w.accepts) > 0:
		out.Does, out.At = Accepts, w.accepts[len(w.accepts)-1]
		out.Comment = rs.commentOf(out.At)
	case c.drop && len(w.accepts) > 0: // by a rule that may apply
		out.Does, out.At, out.Sure = Drops, Place{chainID: c.chainID}, false
	case c.drop:
		out.Does, out.At = Drops, Place{chainID: c.chainID}
	default:
		out.Does, out.At = Passes, Place{chainID: c.chainID}
	}
}

func doesOf(f Fate) Does {
	switch f {
	case Translated:
		return Translates
	case Redirected:
		return Redirects
	}
	return Drops
}

// commentOf is the comment of a rule.
func (rs *Ruleset) commentOf(at Place) string {
	c := rs.chains[at.chainID]
	if c == nil || at.Handle == 0 {
		return ""
	}
	rules, _ := rs.rulesOf(c)
	for _, r := range rules {
		if r.handle == at.Handle {
			return r.comment
		}
	}
	return ""
}

// SinglePacket is a packet of one flow at a hook, to a port of proto, or as a reply
// from one.
func SinglePacket(hook nftables.ChainHook, iif, oif Iface, src, dst netip.Addr, port Port) Packet {
	return Packet{Hook: hook, Iif: iif, Oif: oif, Src: src, Dst: dst, Ports: PortSet(port)}
}
