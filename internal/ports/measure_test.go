package ports

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/sockdiag"
)

func socket(proto string, state uint8, local, remote string) sockdiag.Socket {
	return sockdiag.Socket{Proto: proto, State: state, Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote)}
}

func TestMeasure(t *testing.T) {
	const (
		one, other = "203.0.113.1:443", "203.0.113.2:443"
		any        = "0.0.0.0:0"
	)
	local := func(port int) string { return fmt.Sprintf("192.0.2.2:%d", port) }
	r := between(60700, 60709)
	sockets := []sockdiag.Socket{
		socket("tcp", 1, local(60700), one),
		socket("tcp", 6 /* TIME_WAIT */, local(60702), one),
		socket("tcp", 1, local(60700), other), // the same port again
		socket("tcp", 1, local(60710), one),   // not in the block
		socket("tcp", sockdiag.Listening, "0.0.0.0:60701", any),
		socket("udp", sockdiag.Closed, "0.0.0.0:60705", any),
	}
	flows := []Flow{
		{"tcp", netip.MustParseAddrPort(local(60704)), netip.MustParseAddrPort(one)},
		{"udp", netip.MustParseAddrPort(local(60706)), netip.MustParseAddrPort(one)},
	}
	to := netip.MustParseAddrPort(one)
	tests := map[string]struct {
		r        Range
		reserved []Range
		sockets  []sockdiag.Socket
		flows    []Flow
		want     Block
		again    reuse
	}{
		"empty":              {r: r, want: Block{Usable: 10, FirstPass: 5}},
		"in use":             {r: r, sockets: sockets, want: Block{Usable: 10, FirstPass: 5, TCP: 3, UDP: 1, Worst: Load{"tcp", to, 2, 10}}},
		"given again":        {r: r, again: always, sockets: sockets, want: Block{Usable: 10, FirstPass: 5, TCP: 2, UDP: 1, Worst: Load{"tcp", to, 1, 10}}},
		"not of loopback":    {r: r, again: overLoopback, sockets: sockets, want: Block{Usable: 10, FirstPass: 5, TCP: 3, UDP: 1, Worst: Load{"tcp", to, 2, 10}}},
		"containers":         {r: r, sockets: sockets, flows: flows, want: Block{Usable: 10, FirstPass: 5, TCP: 4, UDP: 2, Worst: Load{"tcp", to, 3, 10}}},
		"reserved":           {r: r, reserved: []Range{between(60700, 60702)}, want: Block{Usable: 7, FirstPass: 3}},
		"UDP alone":          {r: r, sockets: sockets[5:], want: Block{Usable: 10, FirstPass: 5, UDP: 1, Worst: Load{"udp", netip.AddrPort{}, 1, 10}}},
		"odd low":            {r: between(60701, 60708), want: Block{Usable: 8, FirstPass: 4}},
		"odd size":           {r: between(60700, 60708), want: Block{Usable: 8, FirstPass: 4, UsableUDP: 9}},
		"odd, ends reserved": {r: between(60700, 60708), reserved: []Range{between(60700, 60700), between(60708, 60708)}, want: Block{Usable: 7, FirstPass: 3}},
		"one port":           {r: between(60700, 60700), want: Block{Usable: 1, FirstPass: 1}},
		"the end":            {r: between(65534, 65535), want: Block{Usable: 2, FirstPass: 1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.want.UsableUDP == 0 {
				test.want.UsableUDP = test.want.Usable
			}
			test.want.Range, test.want.Reserved = test.r, test.reserved
			if got := measure(test.r, test.reserved, test.again, test.sockets, test.flows); !reflect.DeepEqual(got, test.want) {
				t.Errorf("%+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestWidened(t *testing.T) {
	block := between(60700, 60999)
	tests := map[string]struct {
		b    Block
		want bool
	}{
		"unknown":            {Block{Range: between(1024, 65535)}, false},
		"the same":           {Block{Range: block, Windows: block}, false},
		"within":             {Block{Range: between(60710, 60720), Windows: block}, false},
		"below":              {Block{Range: between(60699, 60999), Windows: block}, true},
		"above":              {Block{Range: between(60700, 61000), Windows: block}, true},
		"the rest reserved":  {Block{Range: between(1024, 65535), Windows: block, Reserved: []Range{between(1024, 60699), between(61000, 65535)}}, false},
		"but one":            {Block{Range: between(1024, 65535), Windows: block, Reserved: []Range{between(1024, 60698), between(61000, 65535)}}, true},
		"up to the last one": {Block{Range: between(60700, 65535), Windows: between(60700, 65535)}, false},
	}
	for name, test := range tests {
		if got := test.b.Widened(); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestParseReserved(t *testing.T) {
	got, err := parseReserved("8080,9148-9150,65535\n")
	if want := []Range{between(8080, 8080), between(9148, 9150), between(65535, 65535)}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := parseReserved("\n"); err != nil || got != nil {
		t.Errorf("of nothing: %v, %v", got, err)
	}
	for _, bad := range []string{"x", "1-2-3", "2-1", "65536", "-", "1,,x"} {
		if got, err := parseReserved(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func FuzzParseReserved(f *testing.F) {
	for _, s := range []string{"", "8080,9148-9150\n", "1-65535", "1-", ",", "99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseReserved(s)
		for _, r := range got {
			if err == nil && r.First > r.Last {
				t.Errorf("%q: %v", s, got)
			}
		}
	})
}

func TestReuse(t *testing.T) {
	const at, to = "192.0.2.2:60700", "203.0.113.1:443"
	for _, test := range []struct {
		again reuse
		s     sockdiag.Socket
		want  bool
	}{
		{never, socket("tcp", sockdiag.TimeWait, at, to), false},
		{always, socket("tcp", sockdiag.TimeWait, at, to), true},
		{always, socket("tcp", 1, at, to), false},
		{always, socket("udp", sockdiag.TimeWait, at, to), false},
		{overLoopback, socket("tcp", sockdiag.TimeWait, at, to), false},
		{overLoopback, socket("tcp", sockdiag.TimeWait, "127.0.0.1:60700", "127.0.0.1:80"), true},
		{overLoopback, socket("tcp", sockdiag.TimeWait, at, "127.0.0.2:80"), true},
		{overLoopback, socket("tcp", sockdiag.TimeWait, "[::1]:60700", "[::1]:80"), true},
		{overLoopback, socket("tcp", 1, "127.0.0.1:60700", "127.0.0.1:80"), false},
	} {
		if got := test.again.gives(test.s); got != test.want {
			t.Errorf("%d, %+v: %v", test.again, test.s, got)
		}
	}
}

// The reason why the flows are unknown is reported, and everything else still works.
func TestUnseen(t *testing.T) {
	for err, want := range map[error]string{
		unix.EPERM: "only root", unix.EINVAL: "nf_conntrack_netlink", unix.ENOENT: "nf_conntrack_netlink", unix.EIO: "input/output",
	} {
		if got := unseen(fmt.Errorf("list connections: %w", err)); got == nil || !strings.Contains(got.Error(), want) {
			t.Errorf("%v: %v", err, got)
		}
	}
	if unseen(nil) != nil {
		t.Error("nothing is unseen, and yet")
	}
}

func TestAnnounces(t *testing.T) {
	l := func(addr string) Listener { return Listener{Proto: "tcp", Addr: netip.MustParseAddrPort(addr)} }
	bound, mptcp, udp := l("0.0.0.0:80"), l("0.0.0.0:80"), l("0.0.0.0:80")
	bound.Bound, mptcp.MPTCP, udp.Proto = true, true, "udp"
	for _, test := range []struct {
		l    Listener
		on   string
		want bool
	}{
		{l("0.0.0.0:80"), "0.0.0.0", true}, {l("[::]:80"), "0.0.0.0", true}, {l("127.0.0.1:80"), "0.0.0.0", true},
		{l("127.0.0.2:80"), "127.0.0.2", true}, {l("127.0.0.2:80"), "127.0.0.1", false}, {l("192.0.2.2:80"), "0.0.0.0", false},
		{l("192.0.2.2:80"), "192.0.2.2", true}, {l("0.0.0.0:81"), "0.0.0.0", false}, {l("[::1]:80"), "0.0.0.0", false},
		{bound, "0.0.0.0", true}, {mptcp, "0.0.0.0", false}, {udp, "0.0.0.0", false},
	} {
		if got := test.l.Announces("tcp", 80, test.on); got != test.want {
			t.Errorf("%+v on %s: %v", test.l, test.on, got)
		}
	}
}

func TestOfWSL(t *testing.T) {
	block, known := between(60700, 60999), between(50000, 50299)
	for _, test := range []struct {
		b    Block
		want Range
	}{
		{Block{Range: block}, block},
		{Block{Range: between(1024, 65535), Windows: known}, known},
		{Block{Range: between(32768, 60999)}, Range{}},
		{Block{Range: block, Reserved: []Range{between(60700, 60700)}}, Range{}},
		{Block{Range: between(40000, 44096)}, between(40000, 44096)}, // WSL#12228
	} {
		if got := test.b.OfWSL(); got != test.want {
			t.Errorf("%+v: %v", test.b, got)
		}
	}
}

// A parsed range is always valid.
func FuzzParseRange(f *testing.F) {
	for _, s := range [][2]string{{"32768", "60999"}, {"9", "8"}, {"", ""}, {"0", "65535"}, {"65536", "1"}, {"-1", "+2"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, first, last string) {
		r, err := parseRange([]string{first, last})
		if err == nil && (r.First > r.Last || r.First != 0 && r.Size() != int(r.Last)-int(r.First)+1) {
			t.Errorf("%v", r)
		}
	})
}
