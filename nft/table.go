package nft

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// The name of the table, in family ip, and of the chain that is the heart of
// it. Users and tests know them: they do not change.
const (
	TableName       = "wslmirror"
	TableFamily     = "ip"
	PreroutingChain = "WSLPREROUTING"
)

// A Table is the content of our table: what it should be, or what it is.
type Table struct {
	Sets   []Set
	Chains []Chain
}

// A Set is a set of ports or of links, or a map from ports to where they are
// sent.
type Set struct {
	Name     string
	Kind     SetKind
	Elements []Element // sorted by key, each key once
}

// A SetKind is what the elements of a Set are.
type SetKind int

// The kinds of a Set.
const (
	SetOfPorts   SetKind = iota // inet_proto . inet_service, ranges among them
	SetOfLinks                  // ifname
	MapOfTargets                // inet_proto . inet_service : ipv4_addr . inet_service
)

// An Element is one element of a Set, as the kernel has it. KeyEnd is "" but in a
// set of ports, Value but in a map.
type Element struct{ Key, KeyEnd, Value string }

// A Chain is a base chain, with policy accept.
type Chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     nftables.ChainHook
	Priority nftables.ChainPriority
	Rules    []Rule
}

// A Rule is the expressions of a rule, with its counters at zero, and its
// comment.
type Rule struct {
	Comment string
	Exprs   []expr.Any
}

// Equal reports whether two tables do the same: whether they are the same but
// for what their rules have counted.
func (t Table) Equal(u Table) bool { return reflect.DeepEqual(t, u) }

// sameBut reports whether two tables are the same but for the elements of their
// sets, and for chains that only one of them has.
func (t Table) sameBut(u Table) bool {
	return slices.EqualFunc(t.Sets, u.Sets, func(a, b Set) bool { return a.Name == b.Name && a.Kind == b.Kind }) &&
		!slices.ContainsFunc(t.Chains, func(c Chain) bool {
			at := u.chain(c.Name)
			return at >= 0 && !reflect.DeepEqual(c, u.Chains[at])
		})
}

// chain is where the chain of that name is, -1 if there is none.
func (t Table) chain(name string) int {
	return slices.IndexFunc(t.Chains, func(c Chain) bool { return c.Name == name })
}

// chainsBut are the chains of t that u has not.
func (t Table) chainsBut(u Table) []Chain {
	return slices.DeleteFunc(slices.Clone(t.Chains), func(c Chain) bool { return u.chain(c.Name) >= 0 })
}

// minus is the elements of s that are not in u, or have another value there.
func (s Set) minus(u Set) (list []Element) {
	for _, e := range s.Elements {
		at, found := slices.BinarySearchFunc(u.Elements, e, Element.compare)
		if !found || u.Elements[at] != e {
			list = append(list, e)
		}
	}
	return list
}

func (e Element) compare(f Element) int { return strings.Compare(e.Key, f.Key) }

// loopback is 127.0.0.1.
var loopback = []byte{127, 0, 0, 1}

// portKey is a port as the kernel has it in a set: each field of a concatenation
// fills a word.
func portKey(p ruleset.Port) string {
	return string([]byte{p.Proto, 0, 0, 0, byte(p.Number >> 8), byte(p.Number), 0, 0})
}

func portSet(name string, ports ruleset.Ports) Set {
	s := Set{Name: name}
	for first, last := range ports.Ranges() {
		s.Elements = append(s.Elements, Element{Key: portKey(first), KeyEnd: portKey(last)})
	}
	return s
}

func targetMap(name string, targets Targets) Set {
	s := Set{Name: name, Kind: MapOfTargets}
	for p, to := range targets {
		addr := to.Addr().As4()
		s.Elements = append(s.Elements, Element{
			Key:   portKey(p),
			Value: string(append(addr[:], byte(to.Port()>>8), byte(to.Port()), 0, 0)),
		})
	}
	slices.SortFunc(s.Elements, Element.compare)
	return s
}

func linkSet(name string, links []string) Set {
	s := Set{Name: name, Kind: SetOfLinks}
	for _, l := range links {
		key := make([]byte, unix.IFNAMSIZ)
		copy(key, l)
		s.Elements = append(s.Elements, Element{Key: string(key)})
	}
	slices.SortFunc(s.Elements, Element.compare)
	s.Elements = slices.Compact(s.Elements)
	return s
}

// Guarded are the links that the table keeps from 127.0.0.0/8.
func (t Table) Guarded() (links []string) {
	for _, e := range t.set(guardedSet).Elements {
		links = append(links, unix.ByteSliceToString([]byte(e.Key)))
	}
	return links
}

// guards reports whether the table keeps packets of a link from 127.0.0.0/8.
func (t Table) guards(link string) bool {
	return slices.Contains(t.Guarded(), link)
}

// EngineServed are the ports that the table leaves to their engines.
func (t Table) EngineServed() (ports ruleset.Ports) {
	var spans []ruleset.Ports
	for _, e := range t.set(servedSet).Elements {
		spans = append(spans, ruleset.PortRange(portOfKey(e.Key), portOfKey(e.KeyEnd)))
	}
	return ruleset.UnionOf(spans...)
}

// Targets are the ports that the table sends past their proxies.
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

// WithoutTargets is the table with no port sent past its proxy.
func (t Table) WithoutTargets() Table {
	t.Sets = slices.Clone(t.Sets)
	for i := range t.Sets {
		if t.Sets[i].Name == directMap {
			t.Sets[i].Elements = nil
		}
	}
	return t
}

// SameLink reports whether both tables are for packets of one link.
func (t Table) SameLink(u Table) bool {
	a, b := t.chain(PreroutingChain), u.chain(PreroutingChain)
	return a >= 0 && b >= 0 && reflect.DeepEqual(last(t.Chains[a].Rules), last(u.Chains[b].Rules))
}

func last(rules []Rule) Rule {
	if len(rules) == 0 {
		return Rule{}
	}
	return rules[len(rules)-1]
}

// set is the set of that name, without elements if there is none.
func (t Table) set(name string) Set {
	for _, s := range t.Sets {
		if s.Name == name {
			return s
		}
	}
	return Set{}
}

// portOfKey is the port of a key that portKey has made.
func portOfKey(key string) (p ruleset.Port) {
	if len(key) == 8 {
		p.Proto, p.Number = key[0], uint16(key[4])<<8|uint16(key[5])
	}
	return p
}
