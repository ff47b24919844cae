package trace

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// ask follows the packet of the question from its start.
func (f *forecast) ask() {
	q := f.question
	in, src, to := f.start(q)
	switch {
	case q.From == Linux:
	case in.Index == 0:
		f.hop(Hop{Kind: Arrives, Link: in.Name, Verdict: "none", Sure: true})
		f.stop(map[Client]string{Windows: f.Link + " does not exist", LAN: "no link to the LAN has an address", Container: "no bridge leads to " + q.Addr.String()}[q.From])
		return
	case q.From != Container && !q.Suppose && !f.announced(q.Port):
		f.hop(Hop{Kind: AtWindows, Verdict: "take", To: to.String(), Sure: true})
		if f.NoUDP && q.Port.Proto == unix.IPPROTO_UDP {
			f.unknown("this kernel does not list UDP sockets")
			return
		}
		f.stop(fmt.Sprintf("no socket in Linux announces %s to Windows, so Windows sends nothing here%s", q.Port, f.instead(q.Port)))
		return
	}
	f.exchange(q.From, in, src, to, q.Port.Proto)
}

// start is where the packet of a question starts: the link on which it arrives, which has
// no index if there is none or if the packet starts here, and its addresses. The source of a packet that
// starts here is not known yet.
func (o *Observation) start(q Question) (in ruleset.Iface, src netip.Addr, to netip.AddrPort) {
	own := ruleset.Localhost
	switch q.From {
	case Windows:
		in, src = iface(netwatch.Find(o.Links, o.Link)), ruleset.Localhost
	case LAN:
		in, own, src = o.lan()
	case Container:
		l, gateway := o.bridge(q.Addr)
		in, src, own = iface(l), q.Addr, gateway.Addr()
	}
	return in, src, netip.AddrPortFrom(own, q.Port.Number)
}

// lan is the link to the LAN, its address, and the address of a neighbour.
func (o *Observation) lan() (in ruleset.Iface, own, neighbour netip.Addr) {
	a, err := o.Route(netwatch.RouteQuery{Dst: netip.AddrFrom4([4]byte{1, 1, 1, 1})})
	l := o.link(a.Oif)
	if err != nil || a.Type != unix.RTN_UNICAST || len(o.Prefixes[a.Oif]) == 0 || !l.Present() {
		return in, own, neighbour
	}
	prefix := o.Prefixes[a.Oif][0]
	if neighbour = a.Via; !prefix.Contains(neighbour) {
		if neighbour = prefix.Masked().Addr().Next(); neighbour == prefix.Addr() {
			neighbour = neighbour.Next()
		}
	}
	return iface(l), prefix.Addr(), neighbour
}

// exchange follows a request, the answer, and for TCP the client's next packet. It
// reports whether the answer returns.
func (f *forecast) exchange(from Client, in ruleset.Iface, src netip.Addr, dst netip.AddrPort, proto uint8) bool {
	p := &packet{
		f: f, client: from, src: src, dst: dst.Addr(), port: ruleset.Port{Proto: proto, Number: dst.Port()},
		masked: -1, proxied: len(f.trace.Hops) > 0,
	}
	p.one.Flow = ruleset.NewFlow(src, dst)
	send := func() (end, bool) {
		if in.Index == 0 {
			return p.depart()
		}
		return p.arrive(in)
	}
	e, ok := send()
	if !ok || !p.meets(e) || !p.answer(e, in) {
		return false
	}
	if proto != unix.IPPROTO_TCP {
		return true
	}
	// Later packets of a connection have other states and marks than the first.
	n := len(f.trace.Hops)
	p.one.Reply, p.one.Later, p.one.Mark, p.turns = false, true, ruleset.Mark{}, 0
	p.src, p.dst, p.port.Number = p.one.Flow.Src, dst.Addr(), dst.Port()
	if e, ok = send(); !ok || !p.answer(e, in) {
		return false
	}
	f.trace.Hops = f.trace.Hops[:n] // as before
	return true
}

// answer follows the answer to a packet that has reached e, back to the client, whose packets
// arrive on the link in. It reports whether the answer arrives there.
func (p *packet) answer(e end, in ruleset.Iface) (ok bool) {
	p.one.Reply, p.one.Mark, p.turns = true, ruleset.Mark{}, 0
	p.src, p.dst = p.dst, p.src
	back := e
	if e.out {
		back, ok = p.arrive(e.link)
	} else {
		back, ok = p.depart()
	}
	if !ok {
		return false
	}
	if out := p.client != Linux; back.out != out || out && back.link != in {
		return p.lost(back)
	}
	return true
}

// lost stops an answer that has reached the wrong place.
func (p *packet) lost(at end) bool {
	where := "stays in Linux"
	if at.out {
		where = "leaves through " + at.link.Name
	}
	if p.client == Windows {
		return p.f.stopAt(Routed, fmt.Sprintf("the answer to Windows %s", where), p.f.missing(1, "", netwatch.LoopbackTable, p.port.Proto)...)
	}
	return p.f.stopAt(Routed, fmt.Sprintf("the answer %s", where), "sudo wslmirror doctor")
}

// meets finds the listener at the end of the path, and reports whether it answers.
func (p *packet) meets(e end) bool {
	f := p.f
	at := netip.AddrPortFrom(p.dst, p.port.Number)
	switch {
	case e.out && p.dst == ruleset.Localhost:
		f.trace.Why = "answered by Windows"
		return true
	case e.out:
		return p.meetsContainer(e, at)
	}
	h := p.hop(Hop{Kind: AtSocket, To: at.String(), Verdict: "none", Sure: true})
	if f.NoUDP && p.port.Proto == unix.IPPROTO_UDP {
		h.Sure, h.Verdict = false, "unknown"
		f.doubt("this kernel does not list UDP sockets")
		return true
	}
	l, found := listener(f.Listeners, p.port, p.dst)
	switch {
	case found:
	case f.question.Suppose && !p.proxied:
		h.Verdict = "listen"
		return true
	default:
		return f.stop(fmt.Sprintf("nobody listens on %s%s", at, f.instead(p.port)))
	}
	h.Verdict, h.Program, h.PID = "listen", l.Program, l.PID
	if p.port.Proto == unix.IPPROTO_UDP && l.Addr.Addr().IsUnspecified() {
		// It answers from the source address of the route to the client, unless the
		// program sets another (IP_PKTINFO).
		if a, err := f.Route(netwatch.RouteQuery{Dst: p.src, Proto: p.port.Proto}); err == nil && a.Src != p.dst {
			f.doubt(fmt.Sprintf("%s may answer from %s instead of %s", who(l), a.Src, p.dst))
		}
	}
	i := slices.IndexFunc(f.Published, func(q ruleset.Published) bool {
		return q.Port == p.port && (q.Addr.IsUnspecified() || q.Addr == p.dst)
	})
	switch {
	case i < 0 && f.Hidden.Has(p.port) && !p.proxied:
		f.doubt(fmt.Sprintf("%s may be the proxy of an unknown container", who(l)))
		return true
	case i < 0 || f.Published[i].Obstacle == ruleset.NotEngines || f.Published[i].To.IsValid() && f.local(f.Published[i].To.Addr()) || p.proxied:
		f.trace.Why = "answered by " + who(l)
		return true
	case f.Published[i].EngineServed:
		h.Verdict, h.Sure = "hold", false
		f.doubt(fmt.Sprintf("%s may only hold the port: its engine serves it with rules, which the packet did not match", who(l)))
		return true
	case !f.Published[i].To.Addr().IsValid() || f.Published[i].Obstacle == ruleset.NotUnderstood:
		f.doubt(fmt.Sprintf("%s may be the proxy of an unknown container", who(l)))
		return true
	}
	h.Verdict = "proxy"
	return f.exchange(Linux, ruleset.Iface{}, netip.Addr{}, f.Published[i].To, p.port.Proto)
}

// meetsContainer is meets for a packet that has left through a link.
func (p *packet) meetsContainer(e end, at netip.AddrPort) bool {
	f := p.f
	if l, at := f.bridge(p.dst); l.Present() && l.Index != e.link.Index {
		return f.stopAt(Routed, fmt.Sprintf("it is sent to the container through %s, not through %s", e.link.Name, l.Name), toBridge(at))
	}
	h := p.hop(Hop{Kind: InsideHost, Link: e.link.Name, To: at.String(), Verdict: "unknown"})
	if p.src.IsLoopback() || p.src == p.dst {
		h.Verdict, h.Sure = "martian", true
		return f.stop(fmt.Sprintf("it keeps the source %s, so the container sends its answer to itself", p.src), f.startUs()...)
	}
	if l, _ := f.bridge(p.src); l.Index == e.link.Index && p.one.Flow.To != p.one.Flow.Dst {
		f.doubt("both containers are on " + l.Name + ", so the answer may bypass NAT on this machine")
	}
	inside, err := f.Inside(at.Addr())
	switch {
	case errors.Is(err, ErrSupposed):
		return true
	case err != nil:
		f.doubt(fmt.Sprintf("cannot see whether a program listens on %s: %v", at, err))
		return true
	}
	h.Sure = true
	l, found := listener(inside, p.port, at.Addr())
	if found {
		h.Verdict, h.Program, h.PID = "listen", l.Program, l.PID
		f.trace.Why = fmt.Sprintf("answered by %s on %s", who(l), at)
		return true
	}
	h.Verdict = "none"
	var own, others []string // sockets with the port, and with other ones
	for _, l := range inside {
		switch {
		case l.Proto != p.port.ProtoName() || l.Bound || !l.TakesIPv4():
		case l.Addr.Port() == p.port.Number:
			own = append(own, l.Addr.Addr().String())
		case !l.Addr.Addr().IsLoopback():
			others = add(others, fmt.Sprint(l.Addr.Port()))
		}
	}
	switch {
	case len(own) > 0:
		return f.stop(fmt.Sprintf("the container listens only on its own %s, not on %s", strings.Join(own, ", "), at),
			fmt.Sprintf("# let the program in the container listen on 0.0.0.0:%d", p.port.Number))
	case len(others) > 0:
		return f.stop(fmt.Sprintf("the container does not listen on %s, but on %s", p.port, strings.Join(others, ", ")),
			fmt.Sprintf("# publish that port instead: --publish %d:%s", f.question.Port.Number, others[0]))
	}
	return f.stop(fmt.Sprintf("no program in the container listens on %s", at), "# start the program in the container")
}

// listener is the socket that receives a packet to an address.
func listener(list []ports.Listener, port ruleset.Port, to netip.Addr) (found ports.Listener, ok bool) {
	for _, l := range list {
		if l.Proto != port.ProtoName() || l.Bound || !l.TakesIPv4() || l.Addr.Port() != port.Number {
			continue
		}
		switch {
		case l.Addr.Addr() == to:
			return l, true
		case l.Addr.Addr().IsUnspecified() && !ok:
			found, ok = l, true
		}
	}
	return found, ok
}

// who names a program.
func who(l ports.Listener) string {
	return Hop{Program: l.Program, PID: l.PID}.Who()
}

// Who names the program of a socket.
func (h Hop) Who() string {
	if h.PID == 0 {
		return "an unknown program"
	}
	return fmt.Sprintf("%s (%d)", h.Program, h.PID)
}

// instead says which other socket uses the port.
func (f *forecast) instead(port ruleset.Port) string {
	for _, l := range f.Listeners {
		switch {
		case l.Proto != port.ProtoName() || l.Addr.Port() != port.Number:
		case l.MPTCP:
			return fmt.Sprintf("; %s listens with MPTCP, which Windows never sees", who(l))
		case l.Bound:
			return fmt.Sprintf("; %s has bound it, but does not listen", who(l))
		case !l.TakesIPv4():
			return fmt.Sprintf("; %s listens only on IPv6", who(l))
		default:
			return fmt.Sprintf("; %s listens only on %s", who(l), l.Addr.Addr())
		}
	}
	return ""
}

// startUs is the command to type if wslmirror would help.
func (f *forecast) startUs() []string {
	if f.Served {
		return []string{"sudo wslmirror doctor"}
	}
	return []string{"sudo systemctl enable --now wslmirror"}
}

// missing is the command that adds a missing rule of WSL.
func (f *forecast) missing(priority uint32, in string, table uint32, proto uint8) []string {
	r := netwatch.Rule{Priority: priority, Action: unix.FR_ACT_TO_TBL, Table: table, Iif: in, IPProto: proto, SuppressPrefix: -1}
	if slices.ContainsFunc(f.Rules, func(s netwatch.Rule) bool { s.Protocol = 0; return s == r }) {
		return []string{"sudo wslmirror doctor"}
	}
	r.Iif = ""
	words := strings.TrimPrefix(r.String(), fmt.Sprintf("%d:", priority))
	if in != "" {
		words = strings.Replace(words, " from all", " from all iif "+text.Word(in), 1)
	}
	return []string{fmt.Sprintf("sudo ip rule add pref %d%s", priority, words)}
}

// nftName is a name that nft takes without quotes (string in its src/scanner.l).
var nftName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9/_.-]*$`)

// accept are the commands that add a rule to accept such packets ahead of the rule of a hop.
func (p *packet) accept(h Hop, words string) []string {
	if h.Manager != "" {
		return p.managed(h)
	}
	family, table, _ := strings.Cut(h.Table, " ")
	if !nftName.MatchString(table) || !nftName.MatchString(h.Chain) {
		return []string{"sudo nft list ruleset   # find the rule, and let it accept the packet"}
	}
	at := ""
	if h.Handle != 0 {
		at = fmt.Sprintf(" position %d", h.Handle)
	}
	return []string{fmt.Sprintf("sudo nft insert rule %s %s %s%s%s accept", family, table, h.Chain, at, words), "# also add it where the firewall loads its rules, for example /etc/nftables.conf"}
}

// words are the matches of a rule for the packet and similar ones.
func (p *packet) words(in, out ruleset.Iface, dst netip.Addr) (words string) {
	if in.Name != "" {
		words += " iifname " + text.Word(in.Name)
	}
	if out.Name != "" {
		words += " oifname " + text.Word(out.Name)
	}
	switch {
	case dst == ruleset.Localhost:
		return words + " ip daddr 127.0.0.1"
	case p.one.Reply:
		return words + fmt.Sprintf(" ip saddr %s %s sport %d", p.src, p.port.ProtoName(), p.port.Number)
	case in.Name == "", in.Name == p.f.Link:
		return words // from this machine to its own containers: one rule is enough for all
	}
	return words + fmt.Sprintf(" ip daddr %s %s dport %d", dst, p.port.ProtoName(), p.port.Number)
}

func add(to []string, item string) []string {
	if slices.Contains(to, item) {
		return to
	}
	return append(to, item)
}
