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

// sources is what wakes the daemon.
func sources() []netwatch.Source {
	return []netwatch.Source{
		// One socket for all, because each bind(2) takes 11 ms in WSL. Netconf tells of
		// forwarding, but not of route_localnet.
		netwatch.Netlink("links, addresses, ip rules, routes and sysctls", unix.NETLINK_ROUTE, unix.RTNLGRP_LINK,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_NETCONF),
		netwatch.Netlink("nftables", unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES),
		netwatch.ClockSet(),
	}
}

// An observer reads the kernel. It keeps its sockets.
type observer struct {
	host string // the name of the interface
	// direct has it find out where the containers are and what is forwarded to
	// them, which takes time and only the path direct needs.
	direct bool

	net     *netwatch.Conn  // nil until it is needed, and after an error
	rules   *ruleset.Reader // likewise
	sockets *sockdiag.Conn  // likewise
	last    reading
	// toWindows are the ports of which it finds out whether Linux serves them.
	toWindows ruleset.Ports
	// restores has it look for what is lost of WSL's, by the memory of what was there,
	// which is no cache: see WSL.
	restores bool
	memory   memory
}

// A reading is what was read of one generation of the ruleset, seen from one
// interface. The walk takes longer than all the rest of a pass.
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

// observe reads what is there. fresh means not to trust the generation: there are
// changes that it does not show.
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
	// The kernel removes a table without another generation when its owner has gone.
	if seen.Table.Owner, seen.Table.Present, err = o.rules.Owner(nft.TableName); err != nil || !seen.Table.Present {
		return seen, err
	}
	seen.Table.Table = o.last.table
	seen.Counters, err = nft.ReadCounters(o.rules)
	return seen, err
}

// readRules reads the ruleset if it is another one than the last, or is to be seen
// from elsewhere.
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
		// Only what is guarded is opened: see guarded.
		if l.Kind == "bridge" && l.Up && l.Master == 0 {
			bridges = append(bridges, ruleset.Bridge{Iface: ifaceOf(l), Prefixes: prefixes[l.Index]})
		}
	}
	return bridges, err
}

// own are the addresses of the LAN that WSL sends to Windows.
func (o *observer) own() (addrs []netip.Addr, err error) {
	routes, err := o.net.RoutesOf(netwatch.HostTable)
	for _, r := range routes {
		if r.To.IsSingleIP() {
			addrs = append(addrs, r.To.Addr())
		}
	}
	return addrs, err
}

// taken are Linux's addresses, and which of the ports toWindows it serves there or on
// localhost. Nothing tells when a program begins to listen. If one does later, it is
// found at the next look, and until then a container reaches it by way of Windows, which
// knows whose port it is.
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
