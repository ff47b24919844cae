package mirror

import (
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/sockdiag"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// sources returns the event sources that wake the daemon.
func sources() []netwatch.Source {
	return []netwatch.Source{
		// One socket for all, because each bind(2) takes 11 ms in WSL. Netconf reports
		// forwarding, but not route_localnet.
		netwatch.Netlink("links, addresses, ip rules, routes and sysctls", unix.NETLINK_ROUTE, unix.RTNLGRP_LINK,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_NETCONF),
		netwatch.Netlink("nftables", unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES),
		netwatch.ClockSet(),
	}
}

// An observer reads the kernel. It keeps its sockets open.
type observer struct {
	host string // the name of the interface
	// direct makes it find out where the containers are and what is forwarded to them. This
	// takes time, and only the direct path needs it.
	direct bool

	net     *netwatch.Conn  // nil until it is needed, and after an error
	rules   *ruleset.Reader // likewise
	sockets *sockdiag.Conn  // likewise
	last    reading
	// toWindows are the ports for which it checks whether Linux serves them.
	toWindows ruleset.Ports
	// restores makes it look for lost parts of WSL's setup. It compares with memory, which
	// is not a cache: see WSL.
	restores bool
	memory   memory
}

// A reading is what was read of one generation of the ruleset, as seen from one interface.
// Walking the ruleset takes longer than the rest of a pass.
type reading struct {
	generation  uint32 // 0: there is none
	tables      string
	host        ruleset.Iface
	bridges     []ruleset.Bridge
	table       nft.Table
	analysis    ruleset.Analysis
	foreign     nft.ForeignRules
	sourcePorts [2]uint16
	wslChains   []ruleset.WSLChain
}

// observe reads what is there. fresh means to read the ruleset even if its generation is
// the same: some changes do not change the generation.
func (o *observer) observe(fresh bool) (Observed, error) {
	if fresh {
		o.last = reading{}
	}
	seen, err := o.read()
	if err != nil {
		o.close()
	}
	return seen, err
}

func (o *observer) read() (seen Observed, err error) {
	if o.net == nil {
		if o.net, err = netwatch.Open(); err != nil {
			return seen, err
		}
	}
	if o.rules == nil {
		if o.rules, err = ruleset.OpenReader(nft.TableName); err != nil {
			return seen, err
		}
	}
	if seen.Links, err = o.net.Links(); err != nil {
		return seen, err
	}
	seen.Host = netwatch.Find(seen.Links, o.host)
	if seen.Mode, err = o.net.Mode(seen.Host); err != nil {
		return seen, err
	}
	if seen.Mode == netwatch.MirroredHAL {
		if seen.Own, err = o.own(); err != nil {
			return seen, err
		}
	}
	if !o.toWindows.Empty() {
		if seen.Addrs, seen.Taken, err = o.taken(); err != nil {
			return seen, err
		}
	}
	rules, err := o.net.Rules()
	if err != nil {
		return seen, err
	}
	seen.ReplyRule, seen.Markers = ours(rules)
	if o.restores {
		if seen.WSL, err = o.readWSL(seen.Host, rules); err != nil {
			return seen, err
		}
	}
	var bridges []ruleset.Bridge
	if o.direct || len(seen.Markers) > 0 {
		if bridges, err = o.bridges(seen.Links); err != nil {
			return seen, err
		}
	}
	if err := o.readRules(ifaceOf(seen.Host), bridges); err != nil {
		return seen, err
	}
	seen.Rules, seen.Foreign, seen.Generation = o.last.analysis, o.last.foreign, o.last.generation
	seen.SourcePorts = o.last.sourcePorts
	if o.restores {
		seen.WSL = append(seen.WSL, o.wslChains(seen.Links)...)
		o.memory.learn(seen)
		seen.Lost, seen.Settling = o.memory.settled(o.memory.missing(seen), time.Now())
	}
	// When a table's owner ends, the kernel removes the table without a new generation.
	if seen.Table.Owner, seen.Table.Present, err = o.rules.Owner(nft.TableName); err != nil || !seen.Table.Present {
		return seen, err
	}
	seen.Table.Table = o.last.table
	seen.Counters, err = nft.ReadCounters(o.rules)
	return seen, err
}

// readRules reads the ruleset if it has changed since the last reading, or if the interface
// or the bridges have.
func (o *observer) readRules(host ruleset.Iface, bridges []ruleset.Bridge) error {
	generation, err := o.rules.Generation()
	if err != nil {
		return err
	}
	tables, err := o.rules.Tables()
	if err != nil {
		return err
	}
	if l := o.last; l.generation == generation && l.tables == tables && l.host == host && slices.EqualFunc(l.bridges, bridges, ruleset.Bridge.Equal) {
		return nil
	}
	next := reading{tables: tables, host: host, bridges: bridges}
	next.generation, err = o.rules.Read(func(rs *ruleset.Ruleset) error {
		next.analysis = rs.Analyse(host, bridges)
		next.foreign = nft.FindForeignRules(rs, host)
		next.table = nft.TableOf(rs)
		next.sourcePorts[0], next.sourcePorts[1] = rs.SourcePorts()
		var err error
		if o.restores {
			next.wslChains, err = o.rules.WSLChains()
		}
		return err
	})
	if err == nil {
		o.last = next
	}
	return err
}

func (o *observer) bridges(links []netwatch.Link) (bridges []ruleset.Bridge, err error) {
	prefixes, err := o.net.Prefixes()
	for _, l := range links {
		// Only guarded bridges are opened: see guarded.
		if l.Kind == "bridge" && l.Up && l.Master == 0 {
			bridges = append(bridges, ruleset.Bridge{Iface: ifaceOf(l), Prefixes: prefixes[l.Index]})
		}
	}
	return bridges, err
}

// own returns the LAN addresses that WSL sends to Windows.
func (o *observer) own() (addrs []netip.Addr, err error) {
	routes, err := o.net.RoutesOf(netwatch.HostTable)
	for _, r := range routes {
		if r.To.IsSingleIP() {
			addrs = append(addrs, r.To.Addr())
		}
	}
	return addrs, err
}

// taken returns Linux's addresses, and which of the ports toWindows Linux serves on one of
// them or on localhost. There is no event when a program begins to listen. The next pass
// finds it, and until then containers reach it through Windows, which knows that the port
// is Linux's.
func (o *observer) taken() (addrs []netip.Addr, taken ruleset.Ports, err error) {
	if err := o.openSockets(); err != nil {
		return nil, nil, err
	}
	prefixes, err := o.net.Prefixes()
	if err != nil {
		return nil, nil, err
	}
	at := map[netip.Addr]int{ruleset.Localhost: 0} // the link of each address
	for link, of := range prefixes {
		for _, p := range of {
			if !p.Addr().IsLoopback() {
				addrs = append(addrs, p.Addr())
				at[p.Addr()] = link
			}
		}
	}
	var found []ruleset.Port
	for p := range o.toWindows.All() {
		for a, link := range at {
			is, err := o.sockets.Takes(p.Proto, netip.AddrPortFrom(a, p.Number), link)
			if err != nil {
				return nil, nil, err
			}
			if is {
				found = append(found, p)
				break
			}
		}
	}
	return addrs, ruleset.PortSet(found...), nil
}

func (o *observer) openSockets() (err error) {
	if o.sockets == nil {
		o.sockets, err = sockdiag.Open()
	}
	return err
}

func ifaceOf(l netwatch.Link) ruleset.Iface { return ruleset.Iface{Name: l.Name, Index: l.Index} }

func (o *observer) close() {
	if o.net != nil {
		o.net.Close()
		o.net = nil
	}
	if o.rules != nil {
		o.rules.Close()
		o.rules = nil
	}
	if o.sockets != nil {
		o.sockets.Close()
		o.sockets = nil
	}
}
