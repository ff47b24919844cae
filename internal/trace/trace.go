// Package trace forecasts the way of a packet: from a client of a port, hop by hop, to
// whoever answers, and back. It sends nothing and asks for everything by an
// [Observation].
package trace

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// An Observation is what there is to see, and whom to ask.
type Observation struct {
	// Link is the link on which Windows' localhost arrives.
	Link     string
	Links    []netwatch.Link
	Prefixes map[int][]netip.Prefix // by the index of the link
	Rules    []netwatch.Rule
	// Route asks the kernel for a route.
	Route func(netwatch.RouteQuery) (netwatch.RouteAnswer, error)
	// Follow is that of a Ruleset. If it is nil, the rules are not known.
	Follow func(ruleset.Packet, ruleset.Single) ([]ruleset.Step, ruleset.Packet, ruleset.Single)
	// Unread says which rules Follow does not see, "" if it sees all.
	Unread    string
	Published []ruleset.Published
	// Hidden are ports that engines mean to publish, where the rules of others keep all
	// packets from theirs: a proxy may listen there, and for which container is not known.
	Hidden    ruleset.Ports
	Listeners []ports.Listener
	// NoUDP says that the listeners of UDP are not known.
	NoUDP bool
	// Inside are the listeners in the container with an address, or ErrSupposed.
	Inside func(netip.Addr) ([]ports.Listener, error)
	// Served says that our own table is there.
	Served bool
}

// ErrSupposed says that somebody is supposed to listen in a container that is not seen.
var ErrSupposed = errors.New("supposed to listen")

// A Client is where a request comes from.
type Client string

// The clients.
const (
	Windows   Client = "windows"
	Linux     Client = "linux"
	LAN       Client = "lan"
	Container Client = "container"
)

// A Question is a packet to a port: of 127.0.0.1 from Windows and Linux, of this
// machine's address from the LAN, of the gateway from a container with an address.
type Question struct {
	Port ruleset.Port
	From Client
	Addr netip.Addr // of the container
	// Suppose says to suppose that somebody listens: in Linux for a client in Windows, and
	// otherwise in Windows.
	Suppose bool
}

// A Verdict is what comes of a request.
type Verdict string

// The verdicts.
const (
	Reaches Verdict = "reaches" // and the answer the client
	Stops   Verdict = "stops"
	Unknown Verdict = "unknown"
)

// A Trace is the way of a packet and of the answer to it.
type Trace struct {
	From    Client  `json:"client"`
	Verdict Verdict `json:"verdict"`
	// Why is who answers, or why nobody does, or what is not known.
	Why string `json:"reason"`
	// Fix are commands that mend it, and comments on them.
	Fix  []string `json:"fix"`
	Hops []Hop    `json:"hops"`
}

// A Kind is what a hop is.
type Kind string

// The kinds of hops.
const (
	Arrives    Kind = "arrives" // on a link
	Routed     Kind = "route"
	InChain    Kind = "chain"     // of nftables, with a hook
	Leaves     Kind = "leaves"    // through a link
	AtWindows  Kind = "windows"   // which sends it back, or takes it
	AtSocket   Kind = "socket"    // in Linux
	InsideHost Kind = "container" // and whoever listens there
)

// A Hop is a part of the way. What does not apply is "" or 0.
type Hop struct {
	Kind Kind   `json:"kind"`
	Link string `json:"interface,omitempty"`
	Hook string `json:"hook,omitempty"`
	// Table is as in "inet filter". Chain is where the rule is, and Base the chain with the
	// hook that has led there.
	Table   string `json:"table,omitempty"`
	Base    string `json:"base_chain,omitempty"`
	Chain   string `json:"chain,omitempty"`
	Handle  uint64 `json:"handle,omitempty"` // of the rule; 0: the policy
	Comment string `json:"comment,omitempty"`
	// RouteTable is as in "local" or "127", and Rule the ip rule that leads to it.
	RouteTable string `json:"route_table,omitempty"`
	Rule       string `json:"ip_rule,omitempty"`
	// Program and PID are those of a socket. The name is not there if it is not seen.
	Program string `json:"program,omitempty"`
	PID     int    `json:"pid,omitempty"`
	Verdict string `json:"verdict"`
	// In and Out are the links that a chain sees.
	In  string `json:"-"`
	Out string `json:"-"`
	// From and To are addresses: of the packet, or To what it is changed to.
	From string `json:"source,omitempty"`
	To   string `json:"destination,omitempty"`
	Sure bool   `json:"sure"`
	// Reply says that it is a hop of the answer, Proxied that it is one of the
	// connection that a proxy makes.
	Reply   bool `json:"reply"`
	Proxied bool `json:"proxied"`
	// Later says that it is one of a packet that does not begin the connection.
	Later bool `json:"later"`
	// Stops says that the packet gets no further.
	Stops bool `json:"stops"`

	nat bool // a chain of NAT, which only the first packet of a flow meets
}

// See takes from a ruleset what there is to see.
func (o *Observation) See(rs *ruleset.Ruleset) {
	var bridges []ruleset.Bridge
	for _, l := range o.Links {
		if l.Kind == "bridge" {
			bridges = append(bridges, ruleset.Bridge{Iface: iface(l), Prefixes: o.Prefixes[l.Index]})
		}
	}
	o.Follow = rs.Follow
	o.Published = rs.Analyse(iface(netwatch.Find(o.Links, o.Link)), bridges).Published
	var hidden []ruleset.Ports
	for _, out := range rs.Walk(ruleset.FromWindows(ruleset.Unnamed), ruleset.Sight{Chains: ruleset.Intended}) {
		if out.Fate == ruleset.Translated && out.Ports.Len() <= ruleset.MostPorts {
			hidden = append(hidden, out.Ports)
		}
	}
	o.Hidden = ruleset.UnionOf(hidden...)
}

// A Place is a rule, or with Handle 0 the policy of a chain.
type Place struct {
	Table, Chain string // as in Hop
	Handle       uint64
}

// Place is where the chain of a hop did what it did.
func (h Hop) Place() Place { return Place{h.Table, h.Chain, h.Handle} }

// StoppedBy is the hop at which the packet stops, if it stops.
func (t Trace) StoppedBy() (h Hop, stops bool) {
	if n := len(t.Hops); n > 0 && t.Hops[n-1].Stops {
		return t.Hops[n-1], true
	}
	return h, false
}

// Ask forecasts what comes of a request.
func (o *Observation) Ask(q Question) Trace { return o.ask(q, nil).trace }

// A passage is packets that a rule of one's own, ahead of a place, lets pass: its matches.
type passage struct {
	Place
	words string
}

// AskOn is Ask. Where a chain stops the packet it forecasts too what comes of it if such
// packets are let pass there, and so on: each Trace but the last is stopped by a chain.
func (o *Observation) AskOn(q Question) (list []Trace) {
	passed := map[passage]bool{}
	for {
		f := o.ask(q, passed)
		list = append(list, f.trace)
		if h, stops := f.trace.StoppedBy(); !stops || h.Kind != InChain || passed[f.stopped] {
			return list
		}
		passed[f.stopped] = true
	}
}

// PlaceOf is a place of a ruleset.
func PlaceOf(p ruleset.Place) Place { return Place{p.Family() + " " + p.Table(), p.Chain(), p.Handle} }

func (o *Observation) ask(q Question, passed map[passage]bool) *forecast {
	f := &forecast{Observation: o, question: q, passed: passed, trace: Trace{From: q.From, Verdict: Reaches, Fix: []string{}, Hops: []Hop{}}}
	if o.Follow == nil {
		f.doubt("only root can read the rules (run with sudo)")
	} else if o.Unread != "" {
		f.doubt(o.Unread)
	}
	f.ask()
	if f.trace.Verdict == Reaches && f.maybe != "" {
		f.trace.Verdict, f.trace.Why = Unknown, f.maybe
	}
	return f
}

// A forecast is one in the making.
type forecast struct {
	*Observation
	question Question
	trace    Trace
	// passed are let pass, and stopped is what would have to be.
	passed  map[passage]bool
	stopped passage
	// maybe says why the packet may not have come as far as it is followed, and astray
	// that it may be elsewhere, or another one.
	maybe  string
	astray bool
}

func (f *forecast) hop(h Hop) *Hop {
	f.trace.Hops = append(f.trace.Hops, h)
	return &f.trace.Hops[len(f.trace.Hops)-1]
}

// doubt notes why nothing is sure any more.
func (f *forecast) doubt(why string) {
	if f.maybe == "" {
		f.maybe = why
	}
}

// stop ends the way at the last hop. It returns false.
func (f *forecast) stop(why string, fix ...string) bool {
	if f.astray {
		return f.unknown(f.maybe)
	}
	f.trace.Verdict, f.trace.Why = Stops, why
	f.trace.Fix = append(f.trace.Fix, fix...)
	f.trace.Hops[len(f.trace.Hops)-1].Stops = true
	return false
}

// stopAt is stop at the last hop of a kind.
func (f *forecast) stopAt(kind Kind, why string, fix ...string) bool {
	for n := len(f.trace.Hops); n > 0; n-- {
		if f.trace.Hops[n-1].Kind == kind {
			f.trace.Hops = f.trace.Hops[:n]
			break
		}
	}
	return f.stop(why, fix...)
}

// unknown ends the way where nothing more is known. It returns false.
func (f *forecast) unknown(why string) bool {
	f.doubt(why)
	f.trace.Verdict, f.trace.Why = Unknown, f.maybe
	return false
}

// link is the link of that index.
func (o *Observation) link(index int) netwatch.Link {
	for _, l := range o.Links {
		if l.Index == index {
			return l
		}
	}
	return netwatch.Link{Index: index}
}

// local reports whether an address is one of this machine.
func (o *Observation) local(a netip.Addr) bool {
	for _, prefixes := range o.Prefixes {
		for _, p := range prefixes {
			if p.Addr() == a {
				return true
			}
		}
	}
	return a.IsLoopback()
}

// BehindWSL is the first preference of ip rules behind those of WSL.
const BehindWSL = 3

// toBridge is the command that has the routes of this machine lead to the containers of a
// bridge, whatever rules say that are behind WSL's last one.
func toBridge(bridge netip.Prefix) string {
	return fmt.Sprintf("sudo ip rule add pref %d to %s lookup main", BehindWSL-1, bridge.Masked())
}

// bridge is the bridge behind which an address is, which is not Present if there is
// none, and its own address there.
func (o *Observation) bridge(a netip.Addr) (bridge netwatch.Link, own netip.Prefix) {
	for _, l := range o.Links {
		for _, p := range o.Prefixes[l.Index] {
			if l.Kind == "bridge" && p.Contains(a) && p.Addr() != a && (!own.IsValid() || p.Bits() > own.Bits()) {
				bridge, own = l, p
			}
		}
	}
	return bridge, own
}

// announced reports whether Windows sends the port to Linux: somebody there has it.
func (o *Observation) announced(p ruleset.Port) bool {
	for _, l := range o.Listeners {
		if l.Announces(p.ProtoName(), p.Number, ruleset.Localhost.String()) {
			return true
		}
	}
	return false
}
