package mirror

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// WSL is what WSL sets up when it boots, and never again, whoever removes it: the
// chains of "nft flush ruleset", say, without which containers do not reach the
// outside world. What is lost cannot be observed any more, so it is the one thing
// that the loop remembers. A daemon that starts later does not know it, and does
// not make it up.
type WSL struct {
	Chains []ruleset.WSLChain
	// Rules are WSL's ip rules, each of them once.
	Rules []netwatch.Rule
	// Route is the route to 127.0.0.1 of table 127, and Gateway is the neighbour that it
	// names. They are zero where there is none.
	Route   netwatch.Route
	Gateway netwatch.Neighbour
}

// loopbackTable and localTable are tables of WSL's, for 127.0.0.1 and for addresses
// of the LAN.
const (
	loopbackTable = 127
	localTable    = 128
)

// A memory is what was seen of WSL's.
type memory struct {
	WSL
	links map[int]string // the names of the links then
	host  int            // the index of the host then
	// losses is when each thing was restored, by its name for people.
	losses map[string][]time.Time
	// since is when something was missing first, zero if nothing is.
	since time.Time
}

// learn remembers what is there as it should be: chains that have rules, and the ip
// rules if none of those for localhost has been lost. A new loopback0 is WSL's to set
// up, so what was seen of an old one is forgotten.
func (m *memory) learn(o Observed) {
	if o.Host.Index != m.host {
		m.host, m.Rules, m.Route, m.Gateway = o.Host.Index, nil, netwatch.Route{}, netwatch.Neighbour{}
	}
	names := map[int]string{}
	for _, l := range o.Links {
		names[l.Index] = l.Name
	}
	for _, c := range o.WSL.Chains {
		if !nft.Restorable(c) {
			continue
		}
		m.Chains = slices.DeleteFunc(m.Chains, func(k ruleset.WSLChain) bool { return k.String() == c.String() })
		m.Chains, m.links = append(m.Chains, c), names
	}
	if isWhole(o.WSL.Rules, o.Host.Name) && len(lostRules(m.Rules, o)) == 0 {
		m.Rules = o.WSL.Rules
	}
	if r := o.WSL.Route; r.Link == o.Host.Index && r.Via.IsValid() {
		m.Route = r
	}
	if o.WSL.Gateway.MAC != "" {
		m.Gateway = o.WSL.Gateway
	}
}

// lost is what was seen and is not there any more, for the links that are there.
func (m *memory) lost(o Observed) (lost WSL) {
	if !o.Host.Present() {
		return lost
	}
	indexes := map[string]int{}
	for _, l := range o.Links {
		indexes[l.Name] = l.Index
	}
	for _, c := range m.Chains {
		if !slices.ContainsFunc(o.WSL.Chains, func(is ruleset.WSLChain) bool { return is.Present && is.String() == c.String() }) {
			lost.Chains = append(lost.Chains, nft.Relink(c, m.links, indexes))
		}
	}
	lost.Rules = lostRules(m.Rules, o)
	if o.Host.Up && m.Route.Via.IsValid() {
		if !o.WSL.Route.Via.IsValid() {
			lost.Route = m.Route
		}
		if o.WSL.Gateway.MAC == "" {
			lost.Gateway = m.Gateway
		}
	}
	return lost
}

// settle is how long something must be missing before it is restored. Who flushes
// does so step by step, and "ip route flush" goes on for as long as it finds something.
const settle = 50 * time.Millisecond

// settled is what is lost and will not come back by itself. waits says that something
// is missing for too short a time to tell.
func (m *memory) settled(lost WSL, now time.Time) (gone WSL, waits bool) {
	switch {
	case lost.empty():
		m.since = time.Time{}
		return lost, false
	case m.since.IsZero():
		m.since = now
	}
	if now.Sub(m.since) < settle {
		return WSL{}, true
	}
	return lost, false
}

// lostRules are those of the ip rules that are missing, none if all those for
// localhost are there: WSL removes the rules of a NIC with the NIC.
func lostRules(known []netwatch.Rule, o Observed) (lost []netwatch.Rule) {
	forLocalhost := false
	for _, r := range known {
		if slices.Contains(o.WSL.Rules, r) || r.Iif != "" && !netwatch.Find(o.Links, r.Iif).Present() {
			continue
		}
		lost = append(lost, r)
		forLocalhost = forLocalhost || r.Iif == "" || r.Iif == o.Host.Name
	}
	if !forLocalhost {
		return nil
	}
	return lost
}

// wslRules are the rules that WSL adds (AddMirroredLoopbackRoutingRules in
// src/linux/init/NetworkManager.cpp), each once: WSL may double them.
func wslRules(rules []netwatch.Rule) (list []netwatch.Rule) {
	for _, r := range rules {
		plain := netwatch.Rule{
			Priority: r.Priority, Action: unix.FR_ACT_TO_TBL, Table: r.Table, IPProto: r.IPProto, Iif: r.Iif,
			SuppressPrefix: -1, Protocol: r.Protocol,
		}
		mirrored := r.IPProto == unix.IPPROTO_TCP || r.IPProto == unix.IPPROTO_UDP
		var ours bool
		switch r.Priority {
		case 0:
			ours = r.Table == unix.RT_TABLE_LOCAL && mirrored && r.Iif != ""
		case 1:
			ours = (r.Table == loopbackTable || r.Table == localTable) && mirrored && r.Iif == ""
		case 2:
			ours = r.Table == unix.RT_TABLE_LOCAL && r.IPProto == 0 && r.Iif == ""
		}
		if ours && r == plain && !slices.Contains(list, r) {
			list = append(list, r)
		}
	}
	return list
}

// isWhole reports whether the rules are there by which TCP and UDP for 127.0.0.1 go to
// Windows and come back by the link.
func isWhole(rules []netwatch.Rule, host string) bool {
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for _, want := range []struct {
			iif   string
			table uint32
		}{{host, unix.RT_TABLE_LOCAL}, {"", loopbackTable}} {
			if !slices.ContainsFunc(rules, func(r netwatch.Rule) bool {
				return r.Iif == want.iif && r.Table == want.table && r.IPProto == proto
			}) {
				return false
			}
		}
	}
	return true
}

// empty reports whether nothing is lost.
func (w WSL) empty() bool {
	return len(w.Chains)+len(w.Rules) == 0 && !w.Route.Via.IsValid() && w.Gateway.MAC == ""
}

// String is for people.
func (w WSL) String() string {
	var names []string
	for _, c := range w.Chains {
		names = append(names, c.String())
	}
	if len(w.Rules) > 0 {
		names = append(names, fmt.Sprintf("%d ip rules", len(w.Rules)))
	}
	if w.Route.Via.IsValid() {
		names = append(names, fmt.Sprintf("the route of table %d", w.Route.Table))
	}
	if w.Gateway.MAC != "" {
		names = append(names, "the neighbour "+w.Gateway.Addr.String())
	}
	return strings.Join(names, ", ")
}

// Somebody who removes again and again what is restored wants it so.
const (
	mostLosses   = 2
	lossesWithin = time.Minute
)

// tires splits lost into what is restored once more, and what was lost so often
// lately that it is not. That is forgotten, until somebody else has restored it.
func (m *memory) tires(lost WSL, now time.Time) (again, tired WSL) {
	if m.losses == nil {
		m.losses = map[string][]time.Time{}
	}
	often := func(name string) bool {
		m.losses[name] = slices.DeleteFunc(m.losses[name], func(t time.Time) bool { return now.Sub(t) >= lossesWithin })
		if len(m.losses[name]) >= mostLosses {
			return true
		}
		m.losses[name] = append(m.losses[name], now)
		return false
	}
	for _, c := range lost.Chains {
		if often(c.String()) {
			tired.Chains = append(tired.Chains, c)
			m.Chains = slices.DeleteFunc(m.Chains, func(k ruleset.WSLChain) bool { return k.String() == c.String() })
		} else {
			again.Chains = append(again.Chains, c)
		}
	}
	for _, r := range lost.Rules {
		if often(r.String()) {
			tired.Rules = append(tired.Rules, r)
			m.Rules = slices.DeleteFunc(slices.Clone(m.Rules), func(k netwatch.Rule) bool { return k == r })
		} else {
			again.Rules = append(again.Rules, r)
		}
	}
	if lost.Route.Via.IsValid() {
		if often("route") {
			tired.Route, m.Route = lost.Route, netwatch.Route{}
		} else {
			again.Route = lost.Route
		}
	}
	if lost.Gateway.MAC != "" {
		if often("gateway") {
			tired.Gateway, m.Gateway = lost.Gateway, netwatch.Neighbour{}
		} else {
			again.Gateway = lost.Gateway
		}
	}
	return again, tired
}

// readWSL reads what there is of WSL's, but for the chains.
func (o *observer) readWSL(host netwatch.Link, rules []netwatch.Rule) (w WSL, err error) {
	w.Rules = wslRules(rules)
	if !host.Present() {
		return w, nil
	}
	routes, err := o.net.RoutesOf(loopbackTable)
	if err != nil {
		return w, err
	}
	to := netip.PrefixFrom(ruleset.Localhost, ruleset.Localhost.BitLen())
	if i := slices.IndexFunc(routes, func(r netwatch.Route) bool { return r.To == to }); i >= 0 {
		w.Route = routes[i]
	}
	gateway := w.Route.Via
	if !gateway.IsValid() {
		gateway = o.memory.Route.Via
	}
	if gateway.IsValid() {
		w.Gateway, err = o.net.Neighbour(host.Index, gateway)
	}
	if w.Gateway.State&unix.NUD_PERMANENT == 0 {
		w.Gateway.MAC = ""
	}
	return w, err
}

// restore adds what was lost of WSL's.
func (s *system) restore(obs Observed, lost WSL) error {
	if lost.empty() {
		return nil
	}
	again, tired := s.memory.tires(lost, time.Now())
	if !tired.empty() {
		s.log.Warnf("lost for the third time within a minute, and not restored any more: %s", tired)
	}
	err := nft.ForeignChange{Restore: again.Chains}.Apply(obs.Generation)
	if errors.Is(err, nft.ErrChanged) {
		again.Chains, err = nil, nil // an event tells of it
	}
	for _, r := range again.Rules {
		err = errors.Join(err, s.net.AddRule(r))
	}
	if again.Gateway.MAC != "" {
		err = errors.Join(err, s.net.SetNeighbour(again.Gateway))
	}
	if again.Route.Via.IsValid() {
		err = errors.Join(err, s.net.AddRoute(again.Route))
	}
	if err == nil && !again.empty() {
		s.log.Warnf("restored what somebody has removed of WSL's: %s", again)
	}
	return err
}
