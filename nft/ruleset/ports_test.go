package ruleset

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP

// A portMap is the simplest implementation of Ports.
type portMap map[Port]bool

func (m portMap) list() []Port { return slices.SortedFunc(maps.Keys(m), Port.Compare) }

// randomPorts makes the same set in both forms. Its ports are few, close together and
// close to the edges, so that spans touch and overlap.
func randomPorts(r *rand.Rand) (Ports, portMap) {
	var s Ports
	m := portMap{}
	for range r.IntN(12) {
		proto := []uint8{tcp, udp}[r.IntN(2)]
		first := []int{0, 40, 65535 - 60}[r.IntN(3)] + r.IntN(60)
		last := min(first+r.IntN(8), 65535)
		s = s.Union(protoPorts(proto, uint16(first), uint16(last)))
		for n := first; n <= last; n++ {
			m[Port{proto, uint16(n)}] = true
		}
	}
	return s, m
}

// checkPorts checks that s and m are equal, and that s is in its normal form.
func checkPorts(t *testing.T, what string, s Ports, m portMap) {
	t.Helper()
	if got, want := slices.Collect(s.All()), m.list(); !slices.Equal(got, want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
	if s.Len() != len(m) || s.Empty() != (len(m) == 0) {
		t.Fatalf("%s: Len %d, Empty %v of %d ports", what, s.Len(), s.Empty(), len(m))
	}
	for i, sp := range s {
		if sp.first > sp.last || sp.last > lastKey || i > 0 && s[i-1].last+1 >= sp.first {
			t.Fatalf("%s: spans %v", what, []span(s))
		}
	}
}

func TestPortsAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		a, ma := randomPorts(r)
		b, mb := randomPorts(r)
		wasA, wasB := slices.Clone(a), slices.Clone(b)

		union, both, rest := maps.Clone(ma), portMap{}, maps.Clone(ma)
		maps.Copy(union, mb)
		for p := range mb {
			if ma[p] {
				both[p] = true
			}
			delete(rest, p)
		}
		checkPorts(t, "a", a, ma)
		checkPorts(t, "union", a.Union(b), union)
		checkPorts(t, "intersection", a.Intersect(b), both)
		checkPorts(t, "intersection the other way", b.Intersect(a), both)
		checkPorts(t, "difference", a.Minus(b), rest)
		checkPorts(t, "set of ports", PortSet(append(ma.list(), ma.list()...)...), ma)
		if got := AllPorts.Minus(AllPorts.Minus(a)); !slices.Equal(got, a) {
			t.Fatalf("twice the complement of %v is %v", a, got)
		}
		for range 20 {
			p := Port{[]uint8{tcp, udp}[r.IntN(2)], uint16(r.IntN(110) - 5)}
			if a.Has(p) != ma[p] {
				t.Fatalf("%v has %v: %v", a, p, a.Has(p))
			}
		}
		// Operations do not change their operands.
		if !slices.Equal(a, wasA) || !slices.Equal(b, wasB) {
			t.Fatalf("changed: %v to %v, %v to %v", wasA, a, wasB, b)
		}
	}
}

// Results must not share memory that a later operation writes to.
func TestPortsAreValues(t *testing.T) {
	a := PortSet(Port{tcp, 1}, Port{tcp, 3}, Port{tcp, 5}, Port{tcp, 7})
	rest := a.Minus(PortSet(Port{tcp, 3}))
	one := rest.Union(PortSet(Port{tcp, 9}))
	two := rest.Union(PortSet(Port{tcp, 11}))
	less := rest.Minus(PortSet(Port{tcp, 7}))
	for want, got := range map[string]Ports{
		"1/tcp 3/tcp 5/tcp 7/tcp":  a,
		"1/tcp 5/tcp 7/tcp":        rest,
		"1/tcp 5/tcp 7/tcp 9/tcp":  one,
		"1/tcp 5/tcp 7/tcp 11/tcp": two,
		"1/tcp 5/tcp":              less,
	} {
		if got.String() != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestPortsEdges(t *testing.T) {
	last, first := Port{tcp, 65535}, Port{udp, 0}
	tests := map[string]struct {
		got  Ports
		want string
	}{
		"none":                     {nil, ""},
		"PortSet of none":          {PortSet(), ""},
		"all":                      {AllPorts, "0-65535/tcp 0-65535/udp"},
		"the seam":                 {PortSet(last, first), "65535/tcp 0/udp"},
		"only udp":                 {AllPorts.Minus(protoPorts(tcp, 0, 65535)), "0-65535/udp"},
		"all but the seam":         {AllPorts.Minus(PortSet(last, first)), "0-65534/tcp 1-65535/udp"},
		"the ends":                 {PortSet(Port{udp, 65535}, Port{tcp, 0}), "0/tcp 65535/udp"},
		"nothing of all":           {AllPorts.Minus(AllPorts), ""},
		"all of nothing":           {Ports(nil).Minus(AllPorts), ""},
		"all and nothing":          {AllPorts.Intersect(nil), ""},
		"nothing or all":           {Ports(nil).Union(AllPorts), "0-65535/tcp 0-65535/udp"},
		"a range that is backward": {protoPorts(tcp, 2, 1), ""},
		"of another protocol":      {protoPorts(unix.IPPROTO_SCTP, 1, 2), ""},
		"both protocols":           {bothPorts(80, 81), "80-81/tcp 80-81/udp"},
		"one that is twice there":  {PortSet(last, last), "65535/tcp"},
	}
	for name, test := range tests {
		if test.got.String() != test.want {
			t.Errorf("%s: %q, want %q", name, test.got, test.want)
		}
	}
	if AllPorts.Len() != 2<<16 || !AllPorts.Has(last) || !AllPorts.Has(first) {
		t.Error("all ports are not all")
	}
	for p := range AllPorts.All() {
		if p != (Port{tcp, 0}) {
			t.Errorf("the first is %v", p)
		}
		break // an iteration may end early
	}
	if s := (Port{udp, 53}).String() + (Port{tcp, 80}).String(); s != "53/udp80/tcp" {
		t.Error(s)
	}
}

func TestPortsRemove(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		a, ma := randomPorts(r)
		b, mb := randomPorts(r)
		for p := range mb {
			delete(ma, p)
		}
		a.remove(b)
		checkPorts(t, "what remains", a, ma)
	}
	all := slices.Clone(AllPorts)
	if all.remove(AllPorts); !all.Empty() {
		t.Errorf("%s remains of all", all)
	}
}
