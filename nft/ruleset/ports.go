package ruleset

import (
	"fmt"
	"iter"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// A Port is a TCP or UDP port.
type Port struct {
	Proto  uint8 // unix.IPPROTO_TCP or unix.IPPROTO_UDP
	Number uint16
}

// String formats the port as in 8080/tcp.
func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Number, p.ProtoName()) }

// ProtoName returns "tcp" or "udp".
func (p Port) ProtoName() string {
	if p.Proto == unix.IPPROTO_UDP {
		return "udp"
	}
	return "tcp"
}

// Compare orders ports by protocol and then by number.
func (p Port) Compare(q Port) int { return int(p.key()) - int(q.key()) }

// key numbers all ports: first TCP, then UDP.
func (p Port) key() uint32 {
	if p.Proto == unix.IPPROTO_UDP {
		return udpKey | uint32(p.Number)
	}
	return uint32(p.Number)
}

// portOf returns the port with that key.
func portOf(key uint32) Port {
	if key >= udpKey {
		return Port{unix.IPPROTO_UDP, uint16(key)}
	}
	return Port{unix.IPPROTO_TCP, uint16(key)}
}

const (
	udpKey  = 1 << 16
	lastKey = 1<<17 - 1
)

// Ports is a set of ports: sorted spans of keys that neither overlap nor touch. It is a
// value and is never changed once created.
type Ports []span

type span struct{ first, last uint32 }

// AllPorts are all ports of TCP and of UDP.
var AllPorts = Ports{{0, lastKey}}

// PortSet returns the set of these ports.
func PortSet(ports ...Port) Ports {
	var s Ports
	for _, p := range ports {
		s = append(s, span{p.key(), p.key()})
	}
	return s.normal()
}

// PortRange returns the set of ports from first to last, with the protocol of first.
func PortRange(first, last Port) Ports { return protoPorts(first.Proto, first.Number, last.Number) }

// UnionOf returns the ports in any of the sets.
func UnionOf(sets ...Ports) Ports { return Ports(slices.Concat(sets...)).normal() }

// protoPorts returns the set of ports first to last of a protocol.
func protoPorts(proto uint8, first, last uint16) Ports {
	switch {
	case first > last:
		return nil
	case proto == unix.IPPROTO_TCP:
		return Ports{{uint32(first), uint32(last)}}
	case proto == unix.IPPROTO_UDP:
		return Ports{{udpKey | uint32(first), udpKey | uint32(last)}}
	}
	return nil
}

// bothPorts returns the set of ports first to last of both protocols.
func bothPorts(first, last uint16) Ports {
	return protoPorts(unix.IPPROTO_TCP, first, last).Union(protoPorts(unix.IPPROTO_UDP, first, last))
}

// Empty reports whether there is no port in s.
func (s Ports) Empty() bool { return len(s) == 0 }

// Len returns the number of ports in s.
func (s Ports) Len() (n int) {
	for _, sp := range s {
		n += int(sp.last-sp.first) + 1
	}
	return n
}

// All yields the ports in order.
func (s Ports) All() iter.Seq[Port] {
	return func(yield func(Port) bool) {
		for _, sp := range s {
			for k := sp.first; k <= sp.last; k++ {
				if !yield(portOf(k)) {
					return
				}
			}
		}
	}
}

// Ranges yields the first and last port of each range of s, in order. No range mixes
// protocols.
func (s Ports) Ranges() iter.Seq2[Port, Port] {
	return func(yield func(first, last Port) bool) {
		for _, sp := range s {
			for _, half := range []span{{sp.first, min(sp.last, udpKey-1)}, {max(sp.first, udpKey), sp.last}} {
				if half.first <= half.last && !yield(portOf(half.first), portOf(half.last)) {
					return
				}
			}
		}
	}
}

// Has reports whether p is in s.
func (s Ports) Has(p Port) bool { return s.hasKey(p.key()) }

func (s Ports) hasKey(k uint32) bool {
	i := s.search(k)
	return i < len(s) && s[i].first <= k
}

// search returns the index of the first span that does not end before k.
func (s Ports) search(k uint32) int {
	return sort.Search(len(s), func(i int) bool { return s[i].last >= k })
}

// Union returns the ports in s or t.
func (s Ports) Union(t Ports) Ports {
	switch {
	case len(s) == 0:
		return t
	case len(t) == 0:
		return s
	}
	return append(slices.Clone(s), t...).normal()
}

// normal sorts spans in place and joins those that overlap or touch.
func (s Ports) normal() Ports {
	slices.SortFunc(s, func(a, b span) int { return int(a.first) - int(b.first) })
	var joined Ports
	for _, sp := range s {
		if n := len(joined); n > 0 && sp.first <= joined[n-1].last+1 {
			joined[n-1].last = max(joined[n-1].last, sp.last)
		} else {
			joined = append(joined, sp)
		}
	}
	return joined
}

// Intersect returns the ports in both s and t. It is fast if one of them has few spans.
func (s Ports) Intersect(t Ports) Ports {
	if len(s) < len(t) {
		s, t = t, s
	}
	var both Ports
	for _, sp := range t {
		for i := s.search(sp.first); i < len(s) && s[i].first <= sp.last; i++ {
			both = append(both, span{max(s[i].first, sp.first), min(s[i].last, sp.last)})
		}
	}
	return both
}

// Minus returns the ports in s that are not in t.
func (s Ports) Minus(t Ports) Ports {
	if len(t) == 0 {
		return s
	}
	var rest Ports
	for _, sp := range s {
		for i := t.search(sp.first); i < len(t) && t[i].first <= sp.last; i++ {
			if t[i].first > sp.first {
				rest = append(rest, span{sp.first, t[i].first - 1})
			}
			sp.first = t[i].last + 1
		}
		if sp.first <= sp.last {
			rest = append(rest, sp)
		}
	}
	return rest
}

// remove removes t from s in place. The caller must not share s. It is fast if t has
// few spans, apart from moving the rest of s.
func (s *Ports) remove(t Ports) {
	for _, sp := range t {
		i := s.search(sp.first)
		j := i
		var rest [2]span
		n := 0
		for ; j < len(*s) && (*s)[j].first <= sp.last; j++ {
			if have := (*s)[j]; have.first < sp.first {
				rest[n] = span{have.first, sp.first - 1}
				n++
			}
			if have := (*s)[j]; have.last > sp.last {
				rest[n] = span{sp.last + 1, have.last}
				n++
			}
		}
		*s = slices.Replace(*s, i, j, rest[:n]...)
	}
}

// String lists ports and ranges, for messages and tests.
func (s Ports) String() string {
	var b strings.Builder
	for first, last := range s.Ranges() {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		if first == last {
			b.WriteString(first.String())
		} else {
			fmt.Fprintf(&b, "%d-%s", first.Number, last)
		}
	}
	return b.String()
}
