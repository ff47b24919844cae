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

// WSL is the part of WSL's setup that WSL creates once, when it boots, and never restores.
// For example, "nft flush ruleset" removes its chains, and containers then cannot reach the
// outside world. Lost parts cannot be observed, so this is the one thing that the loop
// remembers. A daemon that starts after the loss does not know the lost parts, and does not
// guess them.
type WSL []part

// A part is a chain, an ip rule, the route of table 127, or the neighbour that this route
// uses.
type part struct {
	name string // for messages; it also identifies the part
	is   any    // chain, netwatch.Rule, netwatch.Route or netwatch.Neighbour
}

// A chain is one of WSL's chains, with the links' names by index at the time it was seen.
type chain struct {
	ruleset.WSLChain
	links map[int]string
	// emptied says of a missing chain that it exists, but without rules ("iptables -F").
	emptied bool
}

func (w WSL) has(name string) bool {
	_, ok := w.find(name)
	return ok
}

func (w WSL) find(name string) (p part, ok bool) {
	i := slices.IndexFunc(w, func(p part) bool { return p.name == name })
	if i < 0 {
		return p, false
	}
	return w[i], true
}

func (w WSL) without(which func(part) bool) WSL { return slices.DeleteFunc(slices.Clone(w), which) }

// String describes the parts in messages.
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

// A memory is what the daemon has seen of WSL's setup.
type memory struct {
	known  WSL
	host   int                    // the interface's index when it was seen
	losses map[string][]time.Time // when each part was restored, by name
	since  time.Time              // when something was first found missing; zero if nothing is
}

// learn remembers the parts that are intact: chains that contain rules, and the ip rules if
// no rule for localhost is missing. WSL sets up a new loopback0 itself, so only the chains
// are kept from an old one.
func (m *memory) learn(o Observed) {
	if o.Host.Index != m.host {
		m.host, m.known = o.Host.Index, m.known.without(func(p part) bool { return !isChain(p) })
	}
	rules := o.rulesAreWhole() && !slices.ContainsFunc(m.missing(o), isRule)
	if rules {
		m.known = m.known.without(isRule) // WSL removes a NIC's rules with the NIC
	}
	for _, p := range o.WSL {
		if c, ok := p.is.(chain); ok && !nft.Restorable(c.WSLChain) || isRule(p) && !rules {
			continue
		}
		m.known = append(m.known.without(func(k part) bool { return k.name == p.name }), p)
	}
}

// missing returns the parts that were seen and are gone, for links that still exist. If the
// ip rules for localhost are there, no ip rule counts as missing: WSL removes the rules of
// a NIC with the NIC.
//
// A chain without rules is missing too, but not the rules of a NIC that has no ip rules any
// more. Before WSL removes a NIC, it removes the NIC's rules, first from the chain and then
// the ip rules (LxGnsMessageInterfaceNetFilter in src/linux/init/GnsEngine.cpp).
func (m *memory) missing(o Observed) (missing WSL) {
	if !o.Host.Present() {
		return nil
	}
	indexes, ruled := map[string]int{}, map[string]int{}
	for _, l := range o.Links {
		indexes[l.Name] = l.Index
	}
	for _, p := range o.WSL {
		if r, ok := p.is.(netwatch.Rule); ok && indexes[r.Iif] != 0 {
			ruled[r.Iif] = indexes[r.Iif]
		}
	}
	forLocalhost := false
	for _, p := range m.known {
		now, there := o.WSL.find(p.name)
		emptied := there && isChain(now) && len(now.is.(chain).Rules) == 0
		if there && !emptied {
			continue
		}
		switch is := p.is.(type) {
		case chain:
			links := indexes
			if emptied {
				links = ruled
			}
			is.WSLChain, is.emptied = nft.Relink(is.WSLChain, is.links, links), emptied
			if emptied && len(is.Rules) == 0 {
				continue
			}
			p.is = is
		case netwatch.Rule:
			if is.Iif != "" && indexes[is.Iif] == 0 {
				continue
			}
			forLocalhost = forLocalhost || is.Iif == "" || is.Iif == o.Host.Name
		default:
			if !o.Host.Up {
				continue // WSL adds routes and neighbours with the link
			}
		}
		missing = append(missing, p)
	}
	if !forLocalhost {
		return missing.without(isRule)
	}
	return missing
}

const (
	// settle is how long something must be missing before it is restored. A flush takes
	// several steps, and "ip route flush" repeats as long as it finds something.
	settle = 50 * time.Millisecond
	// settleEmptied is the same for a chain without rules. If WSL has removed them, it starts
	// four more programs before it removes the ip rules.
	settleEmptied = time.Second
)

// settled returns what is lost and will not come back by itself. waits says that something
// has been missing for too short a time to decide.
func (m *memory) settled(missing WSL, now time.Time) (lost WSL, waits bool) {
	switch {
	case len(missing) == 0:
		m.since = time.Time{}
		return nil, false
	case m.since.IsZero():
		m.since = now
	}
	wait := settle
	if slices.ContainsFunc(missing, func(p part) bool { return isChain(p) && p.is.(chain).emptied }) {
		wait = settleEmptied
	}
	if now.Sub(m.since) < wait {
		return nil, true
	}
	return missing, false
}

// wslRules returns the rules that WSL adds (AddMirroredLoopbackRoutingRules in
// src/linux/init/NetworkManager.cpp), each once: WSL may add them twice.
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

// rulesAreWhole reports whether the rules exist that send TCP and UDP for 127.0.0.1 to
// Windows and accept them when they arrive on the link.
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

// Someone who repeatedly removes what was restored does so on purpose.
const (
	mostLosses   = 2
	lossesWithin = time.Minute
)

// tires splits lost into again, which is restored once more, and tired, which was restored
// too often lately. It forgets tired until someone else has restored it.
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

// count records what was restored.
func (m *memory) count(restored WSL, now time.Time) {
	for _, p := range restored {
		m.losses[p.name] = append(m.losses[p.name], now)
	}
}

// readWSL reads WSL's parts that exist, except the chains.
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

// wslChains returns WSL's chains that exist.
func (o *observer) wslChains(links []netwatch.Link) (w WSL) {
	names := map[int]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	for _, c := range o.last.wslChains {
		if c.Present {
			w = append(w, part{c.String(), chain{WSLChain: c, links: names}})
		}
	}
	return w
}

// restore adds the parts of WSL's setup that were lost.
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
	var restored WSL
	err := nft.RestoreChains(chains, obs.Generation)
	if errors.Is(err, nft.ErrChanged) {
		again, err = again.without(isChain), nil // the change causes an event, which starts another pass
	}
	add := func(p part, failed error) {
		if err = errors.Join(err, failed); failed == nil {
			restored = append(restored, p)
		}
	}
	chainsFailed := err
	for _, p := range again {
		switch is := p.is.(type) {
		case chain:
			if chainsFailed == nil {
				restored = append(restored, p)
			}
		case netwatch.Rule:
			add(p, s.net.AddRule(is))
		case netwatch.Neighbour:
			add(p, s.net.SetNeighbour(is))
		}
	}
	for _, p := range again { // a route needs the neighbour
		if r, ok := p.is.(netwatch.Route); ok {
			add(p, s.net.AddRoute(r))
		}
	}
	// A part that could not be restored was not removed again.
	s.memory.count(restored, time.Now())
	if len(restored) > 0 {
		s.log.Warnf("restored parts of WSL's setup that another program had removed: %s", restored)
	}
	return err
}
