package ports

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"
)

func socket(proto string, state uint8, local, remote string) Socket {
	return Socket{Proto: proto, State: state, Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote)}
}

func TestMeasure(t *testing.T) {
	const (
		one, other = "203.0.113.1:443", "203.0.113.2:443"
		any        = "0.0.0.0:0"
	)
	local := func(port int) string { return fmt.Sprintf("192.0.2.2:%d", port) }
	r := Range{60700, 60709}
	sockets := []Socket{
		socket("tcp", 1, local(60700), one),
		socket("tcp", 6 /* TIME_WAIT */, local(60702), one),
		socket("tcp", 1, local(60700), other), // the same port again
		socket("tcp", 1, local(60710), one),   // not of the block
		socket("tcp", listening, "0.0.0.0:60701", any),
		socket("udp", closed, "0.0.0.0:60705", any),
	}
	flows := []Flow{
		{"tcp", netip.MustParseAddrPort(local(60704)), netip.MustParseAddrPort(one)},
		{"udp", netip.MustParseAddrPort(local(60706)), netip.MustParseAddrPort(one)},
	}
	to := netip.MustParseAddrPort(one)
	tests := map[string]struct {
		r        Range
		reserved []Range
		sockets  []Socket
		flows    []Flow
		want     Block
	}{
		"empty":              {r: r, want: Block{Usable: 10, FirstPass: 5}},
		"in use":             {r: r, sockets: sockets, want: Block{Usable: 10, FirstPass: 5, TCP: 3, UDP: 1, Worst: Load{"tcp", to, 2, 10}}},
		"containers":         {r: r, sockets: sockets, flows: flows, want: Block{Usable: 10, FirstPass: 5, TCP: 4, UDP: 2, Worst: Load{"tcp", to, 3, 10}}},
		"reserved":           {r: r, reserved: []Range{{60700, 60702}}, want: Block{Usable: 7, FirstPass: 3}},
		"UDP alone":          {r: r, sockets: sockets[5:], want: Block{Usable: 10, FirstPass: 5, UDP: 1, Worst: Load{"udp", netip.AddrPort{}, 1, 10}}},
		"odd low":            {r: Range{60701, 60708}, want: Block{Usable: 8, FirstPass: 4}},
		"odd size":           {r: Range{60700, 60708}, want: Block{Usable: 8, FirstPass: 4, UsableUDP: 9}},
		"odd, ends reserved": {r: Range{60700, 60708}, reserved: []Range{{60700, 60700}, {60708, 60708}}, want: Block{Usable: 7, FirstPass: 3}},
		"one port":           {r: Range{60700, 60700}, want: Block{Usable: 1, FirstPass: 1}},
		"the end":            {r: Range{65534, 65535}, want: Block{Usable: 2, FirstPass: 1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.want.UsableUDP == 0 {
				test.want.UsableUDP = test.want.Usable
			}
			test.want.Range, test.want.Reserved = test.r, test.reserved
			if got := measure(test.r, test.reserved, test.sockets, test.flows); !reflect.DeepEqual(got, test.want) {
				t.Errorf("%+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestWidened(t *testing.T) {
	block := Range{60700, 60999}
	tests := map[string]struct {
		b    Block
		want bool
	}{
		"unknown":            {Block{Range: Range{1024, 65535}}, false},
		"the same":           {Block{Range: block, Windows: block}, false},
		"within":             {Block{Range: Range{60710, 60720}, Windows: block}, false},
		"below":              {Block{Range: Range{60699, 60999}, Windows: block}, true},
		"above":              {Block{Range: Range{60700, 61000}, Windows: block}, true},
		"the rest reserved":  {Block{Range: Range{1024, 65535}, Windows: block, Reserved: []Range{{1024, 60699}, {61000, 65535}}}, false},
		"but one":            {Block{Range: Range{1024, 65535}, Windows: block, Reserved: []Range{{1024, 60698}, {61000, 65535}}}, true},
		"up to the last one": {Block{Range: Range{60700, 65535}, Windows: Range{60700, 65535}}, false},
	}
	for name, test := range tests {
		if got := test.b.Widened(); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestParseReserved(t *testing.T) {
	got, err := parseReserved("8080,9148-9150,65535\n")
	if want := []Range{{8080, 8080}, {9148, 9150}, {65535, 65535}}; err != nil || !reflect.DeepEqual(got, want) {
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

// What the kernel sends is not trusted blindly either.
func FuzzParseSocket(f *testing.F) {
	f.Add(byte(6), make([]byte, messageLen))
	f.Add(byte(17), append(make([]byte, messageLen), 5, 0, onlyV6, 0, 1, 0, 0, 0))
	f.Add(byte(6), append([]byte{10, 10}, make([]byte, messageLen)...))
	f.Add(byte(6), append(make([]byte, messageLen), 255, 255, onlyV6, 0))
	f.Fuzz(func(t *testing.T, proto byte, msg []byte) {
		if s, ok := parseSocket(proto, msg); ok && (!s.Local.IsValid() || !s.Remote.IsValid()) {
			t.Errorf("%+v", s)
		}
	})
}
