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
type WSL []part

// A part is a chain, an ip rule, the route of table 127, or the neighbour that the
// route names.
type part struct {
	name string // for people, and to tell parts apart
	is   any    // chain, netwatch.Rule, netwatch.Route or netwatch.Neighbour
}

// A chain is one of WSL's, with the names that links had by their indexes when it was
// seen.
type chain struct {
	ruleset.WSLChain
	links map[int]string
}

func (w WSL) has(name string) bool {
	return slices.ContainsFunc(w, func(p part) bool { return p.name == name })
}

func (w WSL) without(which func(part) bool) WSL { return slices.DeleteFunc(slices.Clone(w), which) }

// String is for people.
func (w WSL) String() string {
	var names []string
	rules := 0
	for _, p := range w {
		if isRule(p) {
			rules++
		} else {
			names = append(names, p.name)
		}
	}
	if rules > 0 {
		names = append(names, fmt.Sprintf("ip rules: %d", rules))
	}
	return strings.Join(names, ", ")
}

func isRule(p part) bool {
	_, ok := p.is.(netwatch.Rule)
	return ok
}

func isChain(p part) bool {
	_, ok := p.is.(chain)
	return ok
}

// A memory is what was seen of WSL's.
type memory struct {
	known  WSL
	host   int                    // the index of the host then
	losses map[string][]time.Time // when each part was restored, by its name
	since  time.Time              // when something was missing first; zero if nothing is
}

// learn remembers what is there as it should be: chains that have rules, and the ip
// rules if none of those for localhost has been lost. A new loopback0 is WSL's to set
// up, so of an old one only the chains are remembered.
func (m *memory) learn(o Observed) {
	if o.Host.Index != m.host {
		m.host, m.known = o.Host.Index, m.known.without(func(p part) bool { return !isChain(p) })
	}
	rules := o.rulesAreWhole() && !slices.ContainsFunc(m.missing(o), isRule)
	if rules {
		m.known = m.known.without(isRule) // those of a NIC may have gone with it
	}
	for _, p := range o.WSL {
		if c, ok := p.is.(chain); ok && !nft.Restorable(c.WSLChain) || isRule(p) && !rules {
			continue
		}
		m.known = append(m.known.without(func(k part) bool { return k.name == p.name }), p)
	}
}

// missing is what was seen and is not there any more, for the links that are there.
// Of the ip rules it is none if those for localhost are there: WSL removes the rules of
// a NIC with the NIC.
func (m *memory) missing(o Observed) (missing WSL) {
	if !o.Host.Present() {
		return nil
	}
	indexes := map[string]int{}
	for _, l := range o.Links {
		indexes[l.Name] = l.Index
	}
	forLocalhost := false
	for _, p := range m.known {
		if o.WSL.has(p.name) {
			continue
		}
		switch is := p.is.(type) {
		case chain:
			is.WSLChain = nft.Relink(is.WSLChain, is.links, indexes)
			p.is = is
		case netwatch.Rule:
			if is.Iif != "" && indexes[is.Iif] == 0 {
				continue
			}
			forLocalhost = forLocalhost || is.Iif == "" || is.Iif == o.Host.Name
		default:
			if !o.Host.Up {
				continue // routes and neighbours come with the link
			}
		}
		missing = append(missing, p)
	}
	if !forLocalhost {
		return missing.without(isRule)
	}
	return missing
}

// settle is how long something must be missing before it is restored. Who flushes
// does so step by step, and "ip route flush" goes on for as long as it finds something.
const settle = 50 * time.Millisecond

// settled is what is lost and will not come back by itself. waits says that something
// is missing for too short a time to tell.
func (m *memory) settled(missing WSL, now time.Time) (lost WSL, waits bool) {
	switch {
	case len(missing) == 0:
		m.since = time.Time{}
		return nil, false
	case m.since.IsZero():
		m.since = now
	}
	if now.Sub(m.since) < settle {
		return nil, true
	}
	return missing, false
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
			ours = (r.Table == netwatch.LoopbackTable || r.Table == netwatch.HostTable) && mirrored && r.Iif == ""
		case 2:
			ours = r.Table == unix.RT_TABLE_LOCAL && r.IPProto == 0 && r.Iif == ""
		}
		if ours && r == plain && !slices.Contains(list, r) {
			list = append(list, r)
		}
	}
	return list
}

// rulesAreWhole reports whether the rules are there by which TCP and UDP for 127.0.0.1
// go to Windows and come back by the link.
func (o Observed) rulesAreWhole() bool {
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for iif, table := range map[string]uint32{o.Host.Name: unix.RT_TABLE_LOCAL, "": netwatch.LoopbackTable} {
			if !slices.ContainsFunc(o.WSL, func(p part) bool {
				r, ok := p.is.(netwatch.Rule)
				return ok && r.Iif == iif && r.Table == table && r.IPProto == proto
			}) {
				return false
			}
		}
	}
	return true
}

// Somebody who removes again and again what is restored wants it so.
const (
	mostLosses   = 2
	lossesWithin = time.Minute
)

// tires splits lost into what is restored once more, and what was restored so often
// lately that it is not. That is forgotten, until somebody else has restored it.
func (m *memory) tires(lost WSL, now time.Time) (again, tired WSL) {
	for _, p := range lost {
		m.losses[p.name] = slices.DeleteFunc(m.losses[p.name], func(t time.Time) bool { return now.Sub(t) >= lossesWithin })
		if len(m.losses[p.name]) < mostLosses {
			again = append(again, p)
		} else {
			tired = append(tired, p)
		}
	}
	m.known = m.known.without(func(p part) bool { return tired.has(p.name) })
	return again, tired
}

// count notes what was restored.
func (m *memory) count(restored WSL, now time.Time) {
	for _, p := range restored {
		m.losses[p.name] = append(m.losses[p.name], now)
	}
}

// readWSL reads what there is of WSL's, but for the chains.
func (o *observer) readWSL(host netwatch.Link, rules []netwatch.Rule) (w WSL, err error) {
	for _, r := range wslRules(rules) {
		w = append(w, part{"ip rule " + r.String(), r})
	}
	if !host.Present() {
		return w, nil
	}
	routes, err := o.net.RoutesOf(netwatch.LoopbackTable)
	if err != nil {
		return w, err
	}
	var gateway netip.Addr
	for _, p := range o.memory.known {
		if r, ok := p.is.(netwatch.Route); ok {
			gateway = r.Via
		}
	}
	for _, r := range routes {
		if r.To == netip.PrefixFrom(ruleset.Localhost, 32) && r.Link == host.Index && r.Via.IsValid() {
			w, gateway = append(w, part{"the route of table 127", r}), r.Via
		}
	}
	if !gateway.IsValid() {
		return w, nil
	}
	n, err := o.net.Neighbour(host.Index, gateway)
	if n.State&unix.NUD_PERMANENT != 0 {
		w = append(w, part{"the neighbour " + gateway.String(), n})
	}
	return w, err
}

// wslChains are the chains of WSL's that are there.
func (o *observer) wslChains(links []netwatch.Link) (w WSL) {
	names := map[int]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	for _, c := range o.last.wslChains {
		if c.Present {
			w = append(w, part{c.String(), chain{c, names}})
		}
	}
	return w
}

// restore adds what was lost of WSL's.
func (s *system) restore(obs Observed, lost WSL) error {
	if len(lost) == 0 {
		return nil
	}
	again, tired := s.memory.tires(lost, time.Now())
	if len(tired) > 0 {
		s.log.Warnf("removed for the third time within a minute, so no longer restored: %s", tired)
	}
	var chains []ruleset.WSLChain
	for _, p := range again {
		if c, ok := p.is.(chain); ok {
			chains = append(chains, c.WSLChain)
		}
	}
	err := nft.RestoreChains(chains, obs.Generation)
	if errors.Is(err, nft.ErrChanged) {
		again, err = again.without(isChain), nil // an event tells of it
	}
	for _, p := range again {
		switch is := p.is.(type) {
		case netwatch.Rule:
			err = errors.Join(err, s.net.AddRule(is))
		case netwatch.Neighbour:
			err = errors.Join(err, s.net.SetNeighbour(is))
		}
	}
	for _, p := range again { // by way of the neighbour
		if r, ok := p.is.(netwatch.Route); ok {
			err = errors.Join(err, s.net.AddRoute(r))
		}
	}
	s.memory.count(again, time.Now())
	if err == nil && len(again) > 0 {
		s.log.Warnf("restored parts of WSL's setup that another program had removed: %s", again)
	}
	return err
}
