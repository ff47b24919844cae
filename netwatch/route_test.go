package netwatch_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/netwatch"
)

// Rules are printed as "ip rule" prints them.
func TestRules(t *testing.T) {
	b := labtest.New(t, lab.Options{Mode: lab.MirroredHAL})
	for _, args := range []string{
		"pref 5 not from 10.0.0.0/8 to 192.0.2.7 fwmark 0x1/0xff iif eth0 oif lo lookup 99",
		"pref 6 tos 0x10 lookup main suppress_prefixlength 0",
		"pref 7 ipproto udp dport 53 lookup 100 protocol 87",
		"pref 8 ipproto 132 prohibit", "pref 9 blackhole", "pref 10 unreachable", "pref 11 goto 32766", "pref 12 nop",
		"pref 13 uidrange 1-2 lookup default", "pref 14 l3mdev",
	} {
		if _, err := b.WSL.Run("sh", "-c", "ip rule add "+args); err != nil {
			t.Fatal(err)
		}
	}
	rules, err := open(t, b.WSL).Rules()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rules {
		got = append(got, r.String())
	}
	want := `0: from all iif eth0 ipproto tcp lookup local
0: from all iif eth0 ipproto udp lookup local
0: from all iif loopback0 ipproto tcp lookup local
0: from all iif loopback0 ipproto udp lookup local
1: from all ipproto tcp lookup 127
1: from all ipproto udp lookup 127
1: from all ipproto tcp lookup 128
1: from all ipproto udp lookup 128
2: from all lookup local
5: not from 10.0.0.0/8 to 192.0.2.7/32 fwmark 0x1/0xff iif eth0 oif lo lookup 99
6: from all tos 0x10 lookup main suppress_prefixlength 0
7: from all ipproto udp (and more) lookup 100 proto 87
8: from all ipproto 132 prohibit
9: from all blackhole
10: from all unreachable
11: from all goto 32766
12: from all nop
13: from all (and more) lookup default
14: from all lookup [l3mdev-table]
32766: from all lookup main
32767: from all lookup default`
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
}

func TestRoutesAndNeighbours(t *testing.T) {
	b := labtest.New(t, lab.Options{Mode: lab.MirroredHAL})
	if _, err := b.WSL.Run("ip", "route", "add", "throw", "198.51.100.0/24", "table", "500"); err != nil {
		t.Fatal(err)
	}
	conn := open(t, b.WSL)
	routes, err := conn.Routes()
	if err != nil {
		t.Fatal(err)
	}
	neighbours, err := conn.Neighbours()
	if err != nil {
		t.Fatal(err)
	}
	loopback0, eth0 := mustLink(t, b, "loopback0").Attrs().Index, mustLink(t, b, "eth0").Attrs().Index
	gateway := netip.MustParseAddr("169.254.73.249")
	for _, want := range []netwatch.Route{
		{Table: 127, Type: unix.RTN_UNICAST, To: netip.MustParsePrefix("127.0.0.1/32"), Via: gateway, Link: loopback0},
		{Table: 128, Type: unix.RTN_UNICAST, To: netip.MustParsePrefix("192.0.2.2/32"), Via: gateway, Link: eth0},
		{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.1"), Link: eth0},
		{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, To: netip.MustParsePrefix("127.0.0.0/8"), Link: 1},
		{Table: 500, Type: unix.RTN_THROW, To: netip.MustParsePrefix("198.51.100.0/24")},
	} {
		if !slices.Contains(routes, want) {
			t.Errorf("there is no %+v in %+v", want, routes)
		}
	}
	if want := (netwatch.Neighbour{Link: loopback0, Addr: gateway, MAC: "\x00\x11\x22\x33\x44\x55", State: unix.NUD_PERMANENT}); !slices.Contains(neighbours, want) {
		t.Errorf("there is no %+v in %+v", want, neighbours)
	}
}
