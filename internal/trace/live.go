package trace

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// Proxy stands for a proxy as a client of its container. No Question uses it.
const Proxy Client = "proxy"

// A Live is the outcome of real packets from one client, and of the answers.
type Live struct {
	From     Client `json:"client"`
	Requests uint64 `json:"requests"`
	Answers  uint64 `json:"replies"`
	// Agrees says that no hop differs from the forecast.
	Agrees bool      `json:"agrees"`
	Hops   []LiveHop `json:"hops"`
}

// A LiveHop is what a hop did to packets. If Packets is 0, it is a hop that was only forecast.
type LiveHop struct {
	Hop
	Packets uint64 `json:"packets"`
	// Forecast is the hop of the forecast, nil if there is none.
	Forecast *Hop `json:"forecast,omitempty"`
	Differs  bool `json:"differs"`
}

// A Tally counts traced packets, and compares their outcome with forecasts.
type Tally struct {
	o        *Observation
	starts   []nft.Traced // where requests start
	from     []Client     // the client of each
	parties  []*party
	targets  []netip.AddrPort // of proxies, and of containers
	flows    map[tuple]*party // by the addresses of requests, at every hop
	departed map[tuple]bool   // packets that started here, and may return from Windows
	packets  map[uint32]*live
}

// A party is a client with its forecast.
type party struct {
	Live
	verdict Verdict
	rows    []*row
	stops   [2]bool // whether the forecast stops a packet, by direction
	// begun are the packets of each direction, and fresh those that are certainly the first
	// of a flow.
	begun, fresh [2]uint64
}

// A row is a place that packets pass.
type row struct {
	key
	forecast [2]*Hop // of the first packets, and of later ones
	doubtful bool    // an earlier hop is not certain
	seen     []LiveHop
}

// A key names a row.
type key struct {
	kind  Kind
	at    string // the link, or the table and the chain with a hook
	reply bool
}

type tuple struct {
	proto    uint8
	src, dst netip.AddrPort
}

// A live is a packet on its way.
type live struct {
	*party
	reply, first bool
	base         string // the current table and base chain
	from         *row   // the last row that it passed
}

// NewTally makes a Tally for questions and their forecasts.
func NewTally(o *Observation, questions []Question, traces []Trace) *Tally {
	t := &Tally{o: o, flows: map[tuple]*party{}, departed: map[tuple]bool{}, packets: map[uint32]*live{}}
	add := func(from Client, verdict Verdict, hops []Hop, proxied bool) {
		p := &party{Live: Live{From: from}, verdict: verdict}
		doubtful := false
		for _, h := range hops {
			if h.Kind == InsideHost {
				if to, err := netip.ParseAddrPort(h.To); err == nil && !slices.Contains(t.targets, to) {
					t.targets = append(t.targets, to)
				}
			}
			if h.Proxied != proxied {
				continue
			}
			if k, ok := keyOf(h); ok {
				var last *row
				if n := len(p.rows); n > 0 {
					last = p.rows[n-1]
				}
				r := p.row(k, last)
				if n := number(h.Later); r.forecast[n] == nil {
					r.forecast[n], r.doubtful = &h, doubtful
				}
				if h.Stops {
					p.stops[number(h.Reply)] = true
				}
			}
			doubtful = doubtful || !h.Sure
		}
		t.parties = append(t.parties, p)
	}
	traced := func(from Client, m nft.Traced) {
		if !slices.Contains(t.starts, m) {
			t.starts, t.from = append(t.starts, m), append(t.from, from)
		}
	}
	for i, q := range questions {
		in, src, to := o.start(q)
		m := nft.Traced{Iif: in.Index, Dst: to.Addr(), Port: q.Port}
		if q.From == Container {
			m.Src = src
		}
		if q.From == Linux || in.Index != 0 {
			traced(q.From, m)
		}
		add(q.From, traces[i].Verdict, traces[i].Hops, false)
	}
	for _, tr := range traces {
		if slices.ContainsFunc(tr.Hops, func(h Hop) bool { return h.Proxied }) {
			add(Proxy, tr.Verdict, tr.Hops, true)
			break
		}
	}
	// Packets that start here return from Windows, and must be recognized then.
	traced(Linux, nft.Traced{Dst: ruleset.Localhost, Port: questions[0].Port})
	for _, to := range t.targets {
		traced(Proxy, nft.Traced{Dst: to.Addr(), Port: ruleset.Port{Proto: questions[0].Port.Proto, Number: to.Port()}})
	}
	return t
}

func number(b bool) int { return map[bool]int{true: 1}[b] }

// keyOf is the key of a hop, if traced packets show there.
func keyOf(h Hop) (k key, ok bool) {
	k = key{kind: h.Kind, at: h.Link, reply: h.Reply}
	switch h.Kind {
	case Arrives, Leaves:
	case AtSocket:
		k.at = ""
	case InChain:
		k.at = h.Table + " " + h.Base
	default:
		return k, false
	}
	return k, true
}

// row is the row of k. A new row is inserted behind another, or as the first of its direction.
func (p *party) row(k key, behind *row) *row {
	if i := slices.IndexFunc(p.rows, func(r *row) bool { return r.key == k }); i >= 0 {
		return p.rows[i]
	}
	r := &row{key: k}
	at := len(p.rows)
	if i := slices.Index(p.rows, behind); i >= 0 {
		at = i + 1
	} else if i := slices.IndexFunc(p.rows, func(r *row) bool { return r.reply == k.reply }); i >= 0 {
		at = i
	}
	p.rows = slices.Insert(p.rows, at, r)
	return r
}

// Traced are the packets to trace.
func (t *Tally) Traced() []nft.Traced { return t.starts }

// How many flows and packets are remembered at most.
const mostRemembered = 1 << 15

// Add counts an event. own says that it comes from the table that turns tracing on.
func (t *Tally) Add(e nft.TraceEvent, own bool) {
	p := t.packets[e.Packet]
	if own && e.Head != nil && (e.Chain == nft.Arrives || e.Chain == nft.Returned || e.Chain == nft.Departs) && e.Handle != 0 {
		delete(t.packets, e.Packet)
		if len(t.packets) >= mostRemembered {
			clear(t.packets)
		}
		if p = t.begin(e); p != nil {
			t.packets[e.Packet] = p
		}
	}
	if p == nil {
		return // another program traces it
	}
	if e.Head != nil {
		p.base = e.Table + " " + e.Chain
		if len(t.flows) >= mostRemembered {
			clear(t.flows) // active flows are added again
		}
		if h := e.Head; !p.reply {
			t.flows[tuple{h.Proto, h.Src, h.Dst}] = p.party
			t.flows[tuple{proto: h.Proto, src: h.Src}] = p.party
		}
	}
	switch {
	case !own && e.Does.Ends():
		base, ok := strings.CutPrefix(p.base, e.Table+" ")
		if !ok {
			return // the first event of this chain was lost
		}
		h := Hop{Kind: InChain, Table: e.Table, Base: base, Chain: e.Chain, Handle: e.Handle, Verdict: string(ruleset.Passes), Sure: true}
		switch {
		case e.Does.Drops():
			h.Verdict = string(ruleset.Drops)
		case e.Handle != 0:
			h.Verdict = string(ruleset.Accepts)
		}
		p.count(h)
		if e.Does.Drops() {
			delete(t.packets, e.Packet)
		}
	case own && e.Head != nil && e.Chain == nft.Leaves:
		p.count(Hop{Kind: Leaves, Link: t.o.link(e.Head.Oif).Name, Verdict: "leave", Sure: true})
		delete(t.packets, e.Packet)
	case own && e.Head != nil && e.Chain == nft.Delivered:
		h := Hop{Kind: AtSocket, Verdict: "deliver", To: e.Head.Dst.String(), Sure: true}
		if p.reply {
			h.To = e.Head.Dst.Addr().String() // without the client's port, which varies
		}
		p.count(h)
		delete(t.packets, e.Packet)
	}
}

// begin is the packet that begins with e. It is nil if no question covers it.
func (t *Tally) begin(e nft.TraceEvent) *live {
	h := e.Head
	departs := e.Chain == nft.Departs
	p := &live{first: h.First}
	flow := tuple{h.Proto, h.Src, h.Dst}
	by, known := t.flows[tuple{h.Proto, h.Dst, h.Src}]
	switch {
	case known:
		p.party, p.reply = by, true
	case e.Does.Ends():
		p.party = t.flows[tuple{proto: h.Proto, src: h.Src}] // its destination may have changed
	case departs && slices.Contains(t.targets, h.Dst):
		p.party = t.party(Proxy)
	case departs || e.Chain == nft.Returned:
		p.party = t.party(Linux)
	default:
		i := slices.IndexFunc(t.starts, func(m nft.Traced) bool {
			return m.Iif != 0 && m.Iif == h.Iif && m.Dst == h.Dst.Addr() && m.Port.Number == h.Dst.Port() && (!m.Src.IsValid() || m.Src == h.Src.Addr())
		})
		if i >= 0 {
			p.party = t.party(t.from[i])
		}
	}
	if p.party == nil {
		return nil
	}
	if e.Does.Ends() {
		for _, r := range p.rows {
			if r.reply == p.reply {
				p.from = r
			}
		}
		return p // it continues
	}
	if departs || !t.departed[flow] {
		p.begun[number(p.reply)]++
		if p.first {
			p.fresh[number(p.reply)]++
		}
	}
	if departs {
		if len(t.departed) >= mostRemembered {
			clear(t.departed)
		}
		t.departed[flow] = true
	} else {
		p.count(Hop{Kind: Arrives, Link: t.o.link(h.Iif).Name, Verdict: "arrive", From: h.Src.Addr().String(), To: h.Dst.String(), Sure: true})
	}
	return p
}

// party is the party of a client, nil if there is none.
func (t *Tally) party(from Client) *party {
	if i := slices.IndexFunc(t.parties, func(p *party) bool { return p.From == from }); i >= 0 {
		return t.parties[i]
	}
	return nil
}

// count counts what a hop does to a packet.
func (p *live) count(h Hop) {
	h.Reply, h.Proxied = p.reply, p.From == Proxy
	k, _ := keyOf(h)
	r := p.row(k, p.from)
	p.from = r
	f := r.forecast[0]
	if later := r.forecast[1]; later != nil && !p.first {
		f = later
	}
	differs := !r.doubtful && p.differs(h, f)
	if f != nil && h.Kind == InChain && f.Chain == h.Chain && f.Handle == h.Handle && !differs {
		h.Verdict, h.To, h.Comment = f.Verdict, f.To, f.Comment // trace events do not contain these
	}
	for i, s := range r.seen {
		if s.Kind == h.Kind && s.Verdict == h.Verdict && s.Chain == h.Chain && s.Handle == h.Handle && s.Differs == differs {
			r.seen[i].Packets++
			return
		}
	}
	r.seen = append(r.seen, LiveHop{Hop: h, Packets: 1, Forecast: f, Differs: differs})
}

// differs reports whether a hop did something else to a packet than was forecast.
func (p *party) differs(h Hop, f *Hop) bool {
	drops := h.Verdict == string(ruleset.Drops)
	switch {
	case f == nil:
		// Nothing is forecast behind the end of a forecast.
		return p.verdict == Reaches && h.Kind == InChain || drops && p.stops[number(h.Reply)]
	case !f.Sure || h.Kind != InChain:
		return false
	case drops != (f.Verdict == string(ruleset.Drops)):
		return true
	case f.Verdict == string(ruleset.Skipped):
		return true
	}
	// An event names the NAT rule, but not what it did.
	return f.nat && f.To != "" && (f.Chain != h.Chain || f.Handle != h.Handle)
}

// Result is the outcome of the packets of each client, in the order of the forecasts.
func (t *Tally) Result() (list []Live) {
	for _, p := range t.parties {
		l := p.Live
		l.Requests, l.Answers, l.Agrees, l.Hops = p.begun[0], p.begun[1], true, []LiveHop{}
		lost := [2]bool{}
		for _, r := range p.rows {
			n := number(r.reply)
			lost[1] = lost[1] || lost[0] && p.begun[1] == 0
			seen := r.seen
			if len(seen) == 0 {
				f := cmp.Or(r.forecast[0], r.forecast[1])
				h := Hop{Kind: f.Kind, Link: f.Link, Table: f.Table, Base: f.Base, Chain: f.Base, Reply: f.Reply, Proxied: f.Proxied, Sure: true}
				seen = []LiveHop{{Hop: h, Forecast: f, Differs: !lost[n] && p.missing(f, n)}}
			}
			for _, s := range seen {
				lost[n] = lost[n] || s.Differs || s.Verdict == string(ruleset.Drops)
				l.Agrees = l.Agrees && !s.Differs
				l.Hops = append(l.Hops, s)
			}
		}
		list = append(list, l)
	}
	return list
}

// missing reports whether packets should have passed where f was forecast. If they were
// forecast to stop, it does not matter before or behind which hop.
func (p *party) missing(f *Hop, n int) bool {
	switch {
	case p.verdict != Reaches || !f.Sure || f.Verdict == string(ruleset.Skipped):
		return false
	case n == 1 && p.begun[1] == 0:
		return p.fresh[0] > 0 // a server of UDP need not answer
	case f.nat:
		return p.fresh[n] > 0
	}
	return p.begun[n] > 0
}
