package trace

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A packet is a packet on its path: from a client, or from the server that answers.
type packet struct {
	f        *forecast
	client   Client
	proxied  bool
	src, dst netip.Addr
	port     ruleset.Port // the server's
	one      ruleset.Single
	masked   int // the hop that changed the source, -1 if none did
	unmask   passage
	turns    int // how often Windows returned it
}

// An end is where the path of a packet ends.
type end struct {
	link ruleset.Iface
	out  bool // it has left through the link; otherwise it is this machine's
}

func iface(l netwatch.Link) ruleset.Iface { return ruleset.Iface{Name: l.Name, Index: l.Index} }

var (
	prerouting  = *nftables.ChainHookPrerouting
	input       = *nftables.ChainHookInput
	forward     = *nftables.ChainHookForward
	output      = *nftables.ChainHookOutput
	postrouting = *nftables.ChainHookPostrouting
)

var hookNames = map[nftables.ChainHook]string{
	prerouting: "prerouting", input: "input", forward: "forward", output: "output", postrouting: "postrouting",
}

func (p *packet) hop(h Hop) *Hop {
	h.Reply, h.Proxied, h.Later = p.one.Reply, p.proxied, p.one.Later
	return p.f.hop(h)
}

// from and to are the packet's addresses, for people. The client's port is not
// known.
func (p *packet) from() string {
	if p.one.Reply {
		return netip.AddrPortFrom(p.src, p.port.Number).String()
	}
	return p.src.String()
}

func (p *packet) to() string {
	if p.one.Reply {
		return p.dst.String()
	}
	return netip.AddrPortFrom(p.dst, p.port.Number).String()
}

// depart follows a packet that starts in Linux.
func (p *packet) depart() (e end, ok bool) {
	a, ok := p.route(ruleset.Iface{})
	if !ok {
		return e, false
	}
	if !p.src.IsValid() {
		// A client gets its source from the first lookup, and is routed again with it.
		p.src = a.Src
		p.one.Flow = ruleset.NewFlow(p.src, netip.AddrPortFrom(p.dst, p.port.Number))
		p.f.trace.Hops = p.f.trace.Hops[:len(p.f.trace.Hops)-1]
		if a, ok = p.route(ruleset.Iface{}); !ok {
			return e, false
		}
	}
	was := p.dst
	if !p.at(output, ruleset.Iface{}, iface(p.f.link(a.Oif))) {
		return e, false
	}
	if p.dst != was || p.one.Reroute {
		if a, ok = p.route(ruleset.Iface{}); !ok {
			return e, false
		}
	}
	out := iface(p.f.link(a.Oif))
	if !p.at(postrouting, ruleset.Iface{}, out) {
		return e, false
	}
	if a.Type == unix.RTN_LOCAL {
		// It returns on lo, which needs no route.
		return end{link: out}, p.at(prerouting, out, ruleset.Iface{}) && p.at(input, out, ruleset.Iface{})
	}
	return p.leave(out)
}

// arrive follows a packet that arrives on a link.
func (p *packet) arrive(in ruleset.Iface) (e end, ok bool) {
	p.hop(Hop{Kind: Arrives, Link: in.Name, Verdict: "arrive", From: p.from(), To: p.to(), Sure: true})
	if !p.at(prerouting, in, ruleset.Iface{}) {
		return e, false
	}
	a, ok := p.route(in)
	if !ok {
		return e, false
	}
	if a.Type == unix.RTN_LOCAL {
		return end{link: in}, p.at(input, in, ruleset.Iface{})
	}
	out := iface(p.f.link(a.Oif))
	if !p.at(forward, in, out) || !p.at(postrouting, in, out) {
		return e, false
	}
	return p.leave(out)
}

// leave follows a packet through a link.
func (p *packet) leave(out ruleset.Iface) (e end, ok bool) {
	p.hop(Hop{Kind: Leaves, Link: out.Name, Verdict: "leave", From: p.from(), To: p.to(), Sure: true})
	if p.dst.IsLoopback() && out.Name != p.f.Link {
		return e, p.f.stopAt(Routed, fmt.Sprintf("it is sent to %s through %s", p.dst, out.Name), "sudo wslmirror doctor")
	}
	if out.Name != p.f.Link || p.dst != ruleset.Localhost {
		return end{out, true}, true
	}
	flow := p.one.Flow
	switch {
	case p.client == Windows && p.one.Reply:
		return end{out, true}, true
	case p.client == Windows:
		return e, p.f.stop("it is sent back to Windows", p.f.missing(0, out.Name, unix.RT_TABLE_LOCAL, p.port.Proto)...)
	case p.one.Reply && (flow.From != flow.Src || flow.To != flow.Dst):
		// It returns as a separate flow (moby#53553).
		return e, p.f.stop("the answer of the container is sent to Windows instead of to the client in Linux", p.f.startUs()...)
	case p.src != ruleset.Localhost:
		if p.masked >= 0 && !p.one.Later {
			p.f.trace.Hops = p.f.trace.Hops[:p.masked+1]
			h := p.f.trace.Hops[p.masked]
			p.f.stopped = p.unmask
			return e, p.f.stop(fmt.Sprintf("%s %s changes its source 127.0.0.1, so the answer cannot return", h.Table, h.Chain),
				p.accept(h, p.unmask.words)...)
		}
		return end{out, true}, true
	case !p.one.Reply && !p.f.announced(p.port):
		p.hop(Hop{Kind: AtWindows, Verdict: "take", Sure: true})
		if !p.f.question.Suppose {
			p.f.doubt(fmt.Sprintf("no socket in Linux uses %s, so it goes to Windows; whether a program listens there is unknown", p.port))
		}
		return end{out, true}, true
	case flow.From != flow.Src || flow.To != flow.Dst:
		p.f.astray = true
		return e, p.f.unknown("Windows sends it back, and conntrack does not recognize it after NAT")
	}
	if p.turns++; p.turns > 2 {
		return e, p.f.stop("it loops between Windows and Linux", p.f.missing(0, out.Name, unix.RT_TABLE_LOCAL, p.port.Proto)...)
	}
	p.hop(Hop{Kind: AtWindows, Verdict: "return", Sure: true})
	p.one.Mark = ruleset.Mark{} // the mark does not leave Linux
	return p.arrive(out)
}

// at follows a packet through the chains of a hook, and reports whether it passes them.
func (p *packet) at(hook nftables.ChainHook, in, out ruleset.Iface) bool {
	if p.f.Follow == nil {
		p.f.astray = true
		return true
	}
	p.one.Local, p.one.Own = p.f.local, p.own(hook, in, out)
	at := func(s ruleset.Step) passage { return passage{PlaceOf(s.At), p.words(in, out, s.Dst)} }
	p.one.Pass = func(s ruleset.Step) bool { return p.f.passed[at(s)] }
	steps, after, one := p.f.Follow(ruleset.Packet{
		Hook: hook, Iif: in, Oif: out, Src: p.src, Dst: p.dst, Ports: ruleset.PortSet(p.port),
	}, p.one)
	for _, s := range steps {
		h := Hop{
			Kind: InChain, Link: cmp.Or(out.Name, in.Name), In: in.Name, Out: out.Name, Hook: hookNames[hook],
			Table: s.Chain.Family() + " " + s.Chain.Table(), Base: s.Chain.Chain(), Chain: s.At.Chain(),
			Handle: s.At.Handle, Comment: s.Comment, Verdict: string(s.Does), Sure: s.Sure, nat: s.Type == nftables.ChainTypeNAT,
		}
		h.Manager = p.f.manager(h)
		where := fmt.Sprintf("%s %s", h.Table, h.Chain)
		switch s.Does {
		case ruleset.Translates, ruleset.Redirects:
			h.To = s.To.String()
		case ruleset.Masquerades:
			h.To = s.To.Addr().String()
		}
		p.hop(h)
		switch {
		case !s.Sure && s.Does == ruleset.Drops:
			p.f.doubt(fmt.Sprintf("%s may drop it: its rule depends on facts that trace does not know", where))
		case !s.Sure:
			p.f.doubt(fmt.Sprintf("%s may change it or send it elsewhere: its rule depends on facts that trace does not know", where))
			p.f.astray = true
		case s.Does == ruleset.Drops:
			p.f.stopped = at(s)
			fix := p.accept(h, p.f.stopped.words)
			if s.Owned && h.Manager == "" {
				fix = []string{fmt.Sprintf("# let the program that owns the table %s accept it", h.Table)}
				if _, name, _ := strings.Cut(h.Table, " "); nftName.MatchString(name) {
					fix = append(fix, fmt.Sprintf("sudo nft list table %s   # the first line names it", h.Table))
				}
			}
			by := fmt.Sprintf("rule %d of %s drops it", h.Handle, where)
			if h.Handle == 0 {
				by = fmt.Sprintf("the policy of %s drops it", where)
			}
			return p.f.stop(by, fix...)
		case s.Does == ruleset.Masquerades:
			p.masked, p.unmask = len(p.f.trace.Hops)-1, at(s)
		}
	}
	p.one = one
	p.src, p.dst = after.Src, after.Dst
	for p.port = range after.Ports.All() {
		break
	}
	return true
}

// own is the address that redirect and masquerade use at a hook (nf_nat_redirect.c,
// inet_select_addr).
func (p *packet) own(hook nftables.ChainHook, in, out ruleset.Iface) (own netip.Addr) {
	switch hook {
	case output:
		return ruleset.Localhost
	case prerouting:
		for _, a := range p.f.Prefixes[in.Index] {
			return a.Addr()
		}
		return own
	}
	for _, a := range p.f.Prefixes[out.Index] {
		if !own.IsValid() || a.Contains(p.dst) {
			own = a.Addr()
		}
	}
	for _, l := range p.f.Links { // else that of another link
		for _, a := range p.f.Prefixes[l.Index] {
			if !own.IsValid() && !a.Addr().IsLoopback() {
				own = a.Addr()
			}
		}
	}
	return own
}

// route asks for the route of a packet that arrives on a link, or starts here.
func (p *packet) route(in ruleset.Iface) (a netwatch.RouteAnswer, ok bool) {
	q := netwatch.RouteQuery{Iif: in.Index, Src: p.src, Dst: p.dst, Proto: p.port.Proto, Mark: p.one.Mark.Value}
	if !p.one.Reply {
		q.Port = p.port.Number
	}
	if p.one.Mark.Unknown && slices.ContainsFunc(p.f.Rules, func(r netwatch.Rule) bool { return r.Mask != 0 }) {
		p.f.doubt("its mark is unknown, and ip rules match on it")
		p.f.astray = true
	}
	a, err := p.f.Route(q)
	h := p.hop(Hop{Kind: Routed, Link: p.f.link(a.Oif).Name, RouteTable: netwatch.TableName(a.Table), Verdict: "forward", Sure: true})
	if a.Via.IsValid() {
		h.To = a.Via.String()
	}
	if r, found := p.f.rule(q, in.Name, a.Table); found {
		h.Rule = r.String()
	}
	switch {
	case err != nil:
		h.Sure = false
		return a, p.f.unknown("the kernel could not be asked for a route: " + err.Error())
	case a.Err != nil:
		h.Verdict = "unreachable"
		why, fix := p.f.refusal(in, p.dst, a.Err)
		return a, p.f.stop(why, fix...)
	case a.Type == unix.RTN_LOCAL:
		h.Verdict = "local"
	case a.Type != unix.RTN_UNICAST:
		h.Verdict = "unreachable"
		why, fix := p.f.refusal(in, p.dst, errRefused)
		return a, p.f.stop(why, fix...)
	case in.Index == 0:
		h.Verdict = "out"
	}
	return a, true
}

var errRefused = errors.New("it is refused")

// refusal says why the kernel does not route such a packet, and how to repair that.
func (f *forecast) refusal(in ruleset.Iface, dst netip.Addr, err error) (why string, fix []string) {
	l := f.link(in.Index)
	if !l.Present() && dst == ruleset.Localhost {
		l = netwatch.Find(f.Links, f.Link) // it would leave through this link
	}
	switch {
	case in.Index != 0 && errors.Is(err, unix.EHOSTUNREACH) && !l.Forwarding:
		return fmt.Sprintf("forwarding is off on %s", l.Name), []string{"sudo sysctl -w net.ipv4.ip_forward=1"}
	case dst.IsLoopback() && l.Present() && !l.RouteLocalnet:
		fix = f.startUs()
		if l.Name == f.Link {
			fix = []string{fmt.Sprintf("sudo sysctl -w net.ipv4.conf.%s.route_localnet=1", text.Word(l.Name))}
		}
		return fmt.Sprintf("packets for 127.0.0.0/8 cannot pass %s (route_localnet is off)", l.Name), fix
	}
	fix = []string{"sudo wslmirror doctor"}
	if l, at := f.bridge(dst); l.Present() {
		fix = []string{toBridge(at)}
	}
	return fmt.Sprintf("the kernel has no route to %s for it (%v)", dst, err), fix
}

// rule is the ip rule that sent a packet to a table.
func (f *forecast) rule(q netwatch.RouteQuery, in string, table uint32) (netwatch.Rule, bool) {
	has := func(prefix netip.Prefix, a netip.Addr) bool {
		return !prefix.IsValid() || a.IsValid() && prefix.Contains(a)
	}
	for _, r := range f.Rules {
		meant := (r.Iif == "" || r.Iif == cmp.Or(in, "lo")) && r.Oif == "" && r.Mark == q.Mark&r.Mask && r.TOS == 0 &&
			(r.IPProto == 0 || r.IPProto == q.Proto) && has(r.To, q.Dst) && has(r.From, q.Src)
		if meant != r.Not && r.Action == unix.FR_ACT_TO_TBL && r.Table == table {
			return r, true
		}
	}
	return netwatch.Rule{}, false
}
