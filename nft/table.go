package nft

import (
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// The name of the table, in family ip, and of its main chain. Users and tests rely on
// these names, so they do not change.
const (
	TableName       = "wslmirror"
	TableFamily     = "ip"
	PreroutingChain = "WSLPREROUTING"
)

// A Table is the content of our table, desired or actual. All its chains have the
// policy accept.
type Table ruleset.Table

// Equal reports whether two tables are the same. The counters of rules are not
// compared.
func (t Table) Equal(u Table) bool { return reflect.DeepEqual(t, u) }

// sameBut reports whether two tables are the same, ignoring the elements of their sets
// and chains that only one of them has.
func (t Table) sameBut(u Table) bool {
	return slices.EqualFunc(t.Sets, u.Sets, func(a, b ruleset.Set) bool {
		return a.Name == b.Name && a.KeyLen == b.KeyLen && a.Map == b.Map && a.Interval == b.Interval && a.Dynamic == b.Dynamic
	}) &&
		!slices.ContainsFunc(t.Chains, func(c ruleset.Chain) bool {
			at := u.chain(c.Name)
			return at >= 0 && !reflect.DeepEqual(c, u.Chains[at])
		})
}

// chain returns the index of the chain with that name, -1 if there is none.
func (t Table) chain(name string) int {
	return slices.IndexFunc(t.Chains, func(c ruleset.Chain) bool { return c.Name == name })
}

// chainsBut returns the chains of t that u does not have.
func (t Table) chainsBut(u Table) []ruleset.Chain {
	return slices.DeleteFunc(slices.Clone(t.Chains), func(c ruleset.Chain) bool { return u.chain(c.Name) >= 0 })
}

// minus returns the elements of s that are not in u or have another value there.
func minus(s, u ruleset.Set) (list []ruleset.Element) {
	for _, e := range s.Elements {
		at, found := slices.BinarySearchFunc(u.Elements, e, byKey)
		if !found || u.Elements[at] != e {
			list = append(list, e)
		}
	}
	return list
}

func byKey(e, f ruleset.Element) int { return strings.Compare(e.Key, f.Key) }

var loopback = []byte{127, 0, 0, 1}

// portKeyLen is the length of a portKey.
const portKeyLen = 8

// portKey encodes a port as a set key: each field of a concatenation fills a 32-bit
// word.
func portKey(p ruleset.Port) string {
	return string([]byte{p.Proto, 0, 0, 0, byte(p.Number >> 8), byte(p.Number), 0, 0})
}

func portSet(name string, ports ruleset.Ports) ruleset.Set {
	s := ruleset.Set{Name: name, KeyLen: portKeyLen, Interval: true}
	for first, last := range ports.Ranges() {
		s.Elements = append(s.Elements, ruleset.Element{Key: portKey(first), KeyEnd: portKey(last)})
	}
	return s
}

func targetMap(name string, targets Targets) ruleset.Set {
	s := ruleset.Set{Name: name, KeyLen: portKeyLen, Map: true}
	for p, to := range targets {
		addr := to.Addr().As4()
		s.Elements = append(s.Elements, ruleset.Element{
			Key:   portKey(p),
			Value: string(append(addr[:], byte(to.Port()>>8), byte(to.Port()), 0, 0)),
		})
	}
	slices.SortFunc(s.Elements, byKey)
	return s
}

// addrSet is a set of IPv4 addresses.
func addrSet(name string, addrs []netip.Addr) ruleset.Set {
	s := ruleset.Set{Name: name, KeyLen: net.IPv4len}
	for _, a := range addrs {
		s.Elements = append(s.Elements, ruleset.Element{Key: string(a.AsSlice())})
	}
	slices.SortFunc(s.Elements, byKey)
	s.Elements = slices.Compact(s.Elements)
	return s
}

// dynamicSet is a set to which packets add elements.
func dynamicSet(name string) ruleset.Set {
	return ruleset.Set{Name: name, KeyLen: int(keyType(name).Bytes), Dynamic: true}
}

func linkSet(name string, links []string) ruleset.Set {
	s := ruleset.Set{Name: name, KeyLen: unix.IFNAMSIZ}
	for _, l := range links {
		key := make([]byte, unix.IFNAMSIZ)
		copy(key, l)
		s.Elements = append(s.Elements, ruleset.Element{Key: string(key)})
	}
	slices.SortFunc(s.Elements, byKey)
	s.Elements = slices.Compact(s.Elements)
	return s
}

// Guarded returns the links whose packets the table keeps out of 127.0.0.0/8.
func (t Table) Guarded() (links []string) {
	for _, e := range t.set(guardedSet).Elements {
		links = append(links, unix.ByteSliceToString([]byte(e.Key)))
	}
	return links
}

// EngineServed returns the ports that the table leaves to their engines.
func (t Table) EngineServed() ruleset.Ports { return t.ports(servedSet) }

// Except returns the ports that the table leaves alone.
func (t Table) Except() ruleset.Ports { return t.ports(exceptSet) }

// ToWindows returns the ports on which the table lets containers reach Windows, and the
// addresses to which the containers connect.
func (t Table) ToWindows() (ruleset.Ports, []netip.Addr) {
	return t.ports(windowsSet), t.addrs(addressesSet)
}

// Own returns the LAN addresses on which Linux reaches the ports that it publishes
// itself.
func (t Table) Own() []netip.Addr { return t.addrs(ownSet) }

func (t Table) addrs(set string) (addrs []netip.Addr) {
	for _, e := range t.set(set).Elements {
		if a, ok := netip.AddrFromSlice([]byte(e.Key)); ok {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func (t Table) ports(set string) ruleset.Ports {
	var spans []ruleset.Ports
	for _, e := range t.set(set).Elements {
		spans = append(spans, ruleset.PortRange(portOfKey(e.Key), portOfKey(e.KeyEnd)))
	}
	return ruleset.UnionOf(spans...)
}

// Targets returns the ports that the table sends past their proxies, and where to.
func (t Table) Targets() Targets {
	targets := Targets{}
	for _, e := range t.set(directMap).Elements {
		if len(e.Value) == 8 {
			addr := netip.AddrFrom4([4]byte([]byte(e.Value)))
			targets[portOfKey(e.Key)] = netip.AddrPortFrom(addr, uint16(e.Value[4])<<8|uint16(e.Value[5]))
		}
	}
	return targets
}

// Closing returns t without new flows through a bridge: it sends no port past its proxy
// or to Windows.
func (t Table) Closing() Table {
	t.Sets = slices.Clone(t.Sets)
	for i := range t.Sets {
		if name := t.Sets[i].Name; name == directMap || name == windowsSet {
			t.Sets[i].Elements = nil
		}
	}
	return t
}

// SameLink reports whether both tables are for packets from the same link.
func (t Table) SameLink(u Table) bool {
	a, b := t.chain(PreroutingChain), u.chain(PreroutingChain)
	return a >= 0 && b >= 0 && reflect.DeepEqual(last(t.Chains[a].Rules), last(u.Chains[b].Rules))
}

func last(rules []ruleset.Rule) ruleset.Rule {
	if len(rules) == 0 {
		return ruleset.Rule{}
	}
	return rules[len(rules)-1]
}

// set returns the set with that name, without elements if there is none.
func (t Table) set(name string) ruleset.Set {
	for _, s := range t.Sets {
		if s.Name == name {
			return s
		}
	}
	return ruleset.Set{}
}

// portOfKey decodes a key that portKey made.
func portOfKey(key string) (p ruleset.Port) {
	if len(key) == portKeyLen {
		p.Proto, p.Number = key[0], uint16(key[4])<<8|uint16(key[5])
	}
	return p
}
