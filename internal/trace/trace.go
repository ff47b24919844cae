// Package trace forecasts the path of a packet: from a client of a port, hop by hop, to
// the listener, and back. It sends nothing, and takes all facts from an
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

// An Observation is the observed state of the kernel, and functions that query it.
type Observation struct {
	// Link is the link on which packets from Windows' localhost arrive.
	Link     string
	Links    []netwatch.Link
	Prefixes map[int][]netip.Prefix // by the index of the link
	Rules    []netwatch.Rule
	// Route asks the kernel for a route.
	Route func(netwatch.RouteQuery) (netwatch.RouteAnswer, error)
	// Follow is that of a Ruleset. It is nil if the rules are unknown.
	Follow func(ruleset.Packet, ruleset.Single) ([]ruleset.Step, ruleset.Packet, ruleset.Single)
	// UFW says that ufw is on.
	UFW bool
	// Unread says which rules Follow does not know, "" if it knows all.
	Unread    string
	Published []ruleset.Published
	// Hidden are ports that engines publish with rules that no packet reaches, because of other
	// rules. A proxy may listen there; for which container is unknown.
	Hidden    ruleset.Ports
	Listeners []ports.Listener
	// NoUDP says that the UDP listeners are unknown.
	NoUDP bool
	// Inside are the listeners in the container with an address, or ErrSupposed.
	Inside func(netip.Addr) ([]ports.Listener, error)
	// Served says that our own table is installed.
	Served bool
}

// ErrSupposed says to suppose a listener in a container that cannot be inspected.
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

// A Question is a request to a port: on 127.0.0.1 from Windows and Linux, on this
// machine's address from the LAN, on the gateway from a container.
type Question struct {
	Port ruleset.Port
	From Client
	Addr netip.Addr // of the container
	// Suppose says to suppose a listener: in Linux for a client in Windows, and
	// otherwise in Windows.
	Suppose bool
}

// A Verdict is the outcome of a request.
type Verdict string

// The verdicts.
const (
	Reaches Verdict = "reaches" // and the answer reaches the client
	Stops   Verdict = "stops"
	Unknown Verdict = "unknown"
)

// A Trace is the path of a packet and of the answer.
type Trace struct {
	From    Client  `json:"client"`
	Verdict Verdict `json:"verdict"`
	// Why says who answers, or why no answer arrives, or what is unknown.
	Why string `json:"reason"`
	// Fix are commands that repair it, and remarks.
	Fix  []string `json:"fix"`
	Hops []Hop    `json:"hops"`
}

// A Kind is the kind of a hop.
type Kind string

// The kinds of hops.
const (
	Arrives    Kind = "arrives" // on a link
	Routed     Kind = "route"
	InChain    Kind = "chain"     // of nftables, with a hook
	Leaves     Kind = "leaves"    // through a link
	AtWindows  Kind = "windows"   // which returns the packet, or keeps it
	AtSocket   Kind = "socket"    // in Linux
	InsideHost Kind = "container" // and the listener there
)

// A Hop is a step of the path. Fields that do not apply are "" or 0.
type Hop struct {
	Kind Kind   `json:"kind"`
	Link string `json:"interface,omitempty"`
	Hook string `json:"hook,omitempty"`
	// Table is like "inet filter". Chain contains the rule, and Base is the chain with the
	// hook that led there.
	Table   string `json:"table,omitempty"`
	Base    string `json:"base_chain,omitempty"`
	Chain   string `json:"chain,omitempty"`
	Handle  uint64 `json:"handle,omitempty"` // of the rule; 0: the policy
	Comment string `json:"comment,omitempty"`
	// RouteTable is like "local" or "127", and Rule is the ip rule that selected it.
	RouteTable string `json:"route_table,omitempty"`
	Rule       string `json:"ip_rule,omitempty"`
	// Program and PID are those of a socket. Both are missing if the program is not visible.
	Program string `json:"program,omitempty"`
	PID     int    `json:"pid,omitempty"`
	Verdict string `json:"verdict"`
	// Manager is the known program that wrote the chain, or set its policy.
	Manager Manager `json:"-"`
	// In and Out are the links that a chain's rules can match.
	In  string `json:"-"`
	Out string `json:"-"`
	// From and To are the addresses of the packet. For NAT, To is the new address.
	From string `json:"source,omitempty"`
	To   string `json:"destination,omitempty"`
	Sure bool   `json:"sure"`
	// Reply says that it is a hop of the answer, Proxied that it is a hop of the
	// connection that a proxy makes.
	Reply   bool `json:"reply"`
	Proxied bool `json:"proxied"`
	// Later says that it is a hop of a packet that does not begin the connection.
	Later bool `json:"later"`
	// Stops says that the packet gets no further.
	Stops bool `json:"stops"`

	nat bool // a NAT chain, which only the first packet of a flow traverses
}

// See fills o from a ruleset.
func (o *Observation) See(rs *ruleset.Ruleset) {
	var bridges []ruleset.Bridge
	for _, l := range o.Links {
		if l.Kind == "bridge" {
			bridges = append(bridges, ruleset.Bridge{Iface: iface(l), Prefixes: o.Prefixes[l.Index]})
		}
	}
	o.Follow, o.UFW = rs.Follow, rs.HasChain("ufw-user-input") // "ufw disable" leaves the others
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

// Place is the rule or policy that decided at a hop.
func (h Hop) Place() Place { return Place{h.Table, h.Chain, h.Handle} }

// StoppedBy is the hop at which the packet stops, if it stops.
func (t Trace) StoppedBy() (h Hop, stops bool) {
	if n := len(t.Hops); n > 0 && t.Hops[n-1].Stops {
		return t.Hops[n-1], true
	}
	return h, false
}

// Ask forecasts the outcome of a request.
func (o *Observation) Ask(q Question) Trace { return o.ask(q, nil).trace }

// A passage is a supposed accept rule ahead of a place: words are its matches.
type passage struct {
	Place
	words string
}

// AskOn is Ask, but if a chain stops the packet, it also forecasts the outcome if such
// packets may pass there, and so on: a chain stops each Trace but the last.
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

// A forecast is a Trace under construction.
type forecast struct {
	*Observation
	question Question
	trace    Trace
	// passed are the passages that are supposed, and stopped is the next one to suppose.
	passed  map[passage]bool
	stopped passage
	// maybe says why the packet may not have come this far, and astray
	// that it may be elsewhere, or changed.
	maybe  string
	astray bool
}

func (f *forecast) hop(h Hop) *Hop {
	f.trace.Hops = append(f.trace.Hops, h)
	return &f.trace.Hops[len(f.trace.Hops)-1]
}

// doubt notes why the rest of the forecast is not certain.
func (f *forecast) doubt(why string) {
	if f.maybe == "" {
		f.maybe = why
	}
}

// stop ends the path at the last hop. It returns false.
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

// unknown ends the path where nothing more is known. It returns false.
func (f *forecast) unknown(why string) bool {
	f.doubt(why)
	f.trace.Verdict, f.trace.Why = Unknown, f.maybe
	return false
}

// link is the link with that index.
func (o *Observation) link(index int) netwatch.Link {
	for _, l := range o.Links {
		if l.Index == index {
			return l
		}
	}
	return netwatch.Link{Index: index}
}

// local reports whether an address belongs to this machine.
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

// toBridge is the command that routes packets for the containers of a bridge through the main
// table, whatever the rules behind WSL's last one say.
func toBridge(bridge netip.Prefix) string {
	return fmt.Sprintf("sudo ip rule add pref %d to %s lookup main", BehindWSL-1, bridge.Masked())
}

// bridge is the bridge of the network that contains an address. It is not Present if there is
// none. own is the bridge's own address there.
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

// announced reports whether Windows sends the port to Linux, because a socket there announces it.
func (o *Observation) announced(p ruleset.Port) bool {
	for _, l := range o.Listeners {
		if l.Announces(p.ProtoName(), p.Number, ruleset.Localhost.String()) {
			return true
		}
	}
	return false
}
