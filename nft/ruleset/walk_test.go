package ruleset

import (
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

var update = flag.Bool("update", false, "write the golden files")

// host returns a machine of the bench with a link loopback0, and the link's index.
func host(t *testing.T) (*lab.Host, int) {
	b := labtest.New(t, lab.Options{})
	link, err := b.WSL.Net.LinkByName("loopback0")
	if err != nil {
		t.Fatal(err)
	}
	return b.WSL, link.Attrs().Index
}

// in runs fn inside h. fn must not call t.Fatal.
func in(t testing.TB, h *lab.Host, fn func() error) {
	t.Helper()
	if err := h.Do(fn); err != nil {
		t.Fatal(err)
	}
}

// ownTable is the name of the table that walks leave out.
const ownTable = "wslmirror"

// reader opens a Reader in h.
func reader(t testing.TB, h *lab.Host) *Reader {
	t.Helper()
	var r *Reader
	in(t, h, func() (err error) {
		r, err = OpenReader(ownTable)
		return err
	})
	t.Cleanup(r.Close)
	return r
}

// readRules reads the ruleset of h, which must not change meanwhile.
func readRules(t testing.TB, h *lab.Host) *Ruleset {
	t.Helper()
	var rs *Ruleset
	if _, err := reader(t, h).Read(func(read *Ruleset) error {
		rs = read
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return rs
}

// load replaces the ruleset of h by a file's, and reads it.
func load(t testing.TB, h *lab.Host, file string) *Ruleset {
	t.Helper()
	loader := "nft"
	if filepath.Ext(file) == ".iptables" {
		loader = "iptables-nft-restore"
	}
	script := "nft flush ruleset && exec " + loader + " <" + file
	if loader == "nft" {
		script = "nft flush ruleset && exec nft -f " + file
	}
	if _, err := h.Run("sh", "-c", script); err != nil {
		t.Fatal(err)
	}
	return readRules(t, h)
}

// describe formats an outcome as in the tables below.
func describe(o Outcome) string {
	what := "dropped"
	switch o.Fate {
	case Redirected:
		what = "redirected"
	case Translated:
		what = "to " + strings.Replace(o.To.String(), "invalid IP", "computed", 1)
		if !o.To.Addr().IsValid() {
			what = fmt.Sprintf("to computed:%d", o.To.Port())
		}
	}
	s := fmt.Sprintf("%s %s in %s %s", o.Ports, what, o.At.Table(), o.At.Chain())
	if o.ToAddr {
		s += ", by address"
	}
	if !o.Sure {
		s += ", maybe"
	}
	return s
}

func checkWalk(t *testing.T, rs *Ruleset, p Packet, want []string) {
	t.Helper()
	var got []string
	for _, o := range rs.Walk(p, Sight{}) {
		got = append(got, describe(o))
	}
	// The kernel chooses the order of a set's elements.
	sort := func(s []string) []string { return slices.Sorted(slices.Values(s)) }
	got, want = sort(got), sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("at hook %d the walk comes to\n\t%s\nwant\n\t%s", p.Hook, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// allPorts is how AllPorts prints.
const allPorts = "0-65535/tcp 0-65535/udp"

// What the kernel would do with the rulesets of testdata/walk. TestWalkAsKernel checks
// the walk against the kernel.
func TestWalk(t *testing.T) {
	tests := map[string]struct{ windows, linux []string }{
		"jumps.nft": {windows: []string{
			"1/tcp dropped in t leaf",
			"4/tcp dropped in t jumped",
			"2/tcp to 10.0.0.2:0 in t pre",
			"5/tcp dropped in t gone",
			"3/tcp 6-7/tcp to 10.0.0.1:0 in t pre2",
			"2/udp to 10.0.0.7:0 in t pre",
		}},
		"goto-in-jump.nft": {windows: []string{
			"1/tcp dropped in t c",
			"2-3/tcp dropped in t pre",
		}},
		"accept.nft": {windows: []string{
			"2/tcp dropped in a pre",
			"0/tcp 4-65535/tcp 0-65535/udp dropped in b pre",
			"1/tcp 3/tcp to 10.0.0.1:0 in c pre",
		}},
		"policy-tail.nft": {windows: []string{
			"0-1/tcp 3-65535/tcp 0-1/udp 3-65535/udp dropped in t pre",
		}},
		"raw-drop.nft": {windows: []string{
			"8081/tcp dropped in raw PREROUTING, by address",
			"8080/tcp to 172.17.0.2:80 in nat DOCKER",
		}},
		"priorities.nft": {windows: []string{
			"3/tcp dropped in u earliest",
			"1/tcp to 10.0.0.2:0 in t early",
			"2/tcp to 10.0.0.1:0 in t late",
		}},
		"nat-at-one-place.nft": {windows: []string{
			"1/tcp dropped in t filter",
			"2/tcp to 10.0.0.2:0 in t latenat",
		}},
		"same-priority.nft": {windows: []string{
			"2/tcp to 10.0.0.3:0 in b third",
			"1/tcp to 10.0.0.2:0 in a second",
		}},
		"vmap.nft": {windows: []string{
			"81/tcp dropped in t pre",
			"80/tcp to 10.0.0.1:80 in t web",
			"82/tcp to 10.0.0.1:80 in t web",
			"54/udp dropped in t pre",
			"53/udp to 10.0.0.1:80 in t web",
			"85/tcp to 10.0.0.1:80 in t web",
			"100-199/udp dropped in t pre",
			"200-299/udp to 10.0.0.1:80 in t web",
			"86/tcp to 10.0.0.2:0 in t pre",
			"0-52/udp 55-99/udp 300-65535/udp to 10.0.0.1:80 in t web",
		}},
		"sets.nft": {windows: []string{
			"10/tcp 20/tcp 30/tcp dropped in t pre",
			"0-99/udp 201-299/udp dropped in t pre",
			"40/tcp dropped in t pre, by address",
			"42/tcp dropped in t pre, by address",
			"1000-1099/tcp dropped in t pre",
		}},
		"concat.nft": {windows: []string{
			// For ranges, nft converts l4proto to network byte order, which the walk
			// does not follow.
			"1000-1999/tcp 5000/tcp 6000/tcp 1000-1999/udp 5000/udp 6000/udp to 10.0.0.9:0 in t pre, maybe",
			"443/tcp to 10.0.0.1:8443 in t pre",
			"53/tcp 80/udp dropped in t pre",
		}},
		"dnat-map.nft": {windows: []string{
			"80/tcp to 10.0.0.1:0 in t pre",
			"81/tcp to 10.0.0.2:0 in t pre",
			"82/tcp to 10.0.0.3:8082 in t pre",
			"82/udp to 10.0.0.4:53 in t pre",
			"100-109/tcp to 10.0.0.5:0 in t pre",
			"110-119/tcp to 10.0.0.6:0 in t pre",
			"90/tcp to computed:9000 in t pre",
			"91/tcp to 10.0.0.7:0 in t pre",
			"92/tcp to computed:9200 in t pre",
			"93/tcp to computed:0 in t pre",
			"94/tcp to 10.0.0.8:0 in t pre",
			"95/tcp to 10.0.0.10:0 in t pre, maybe",
			"95/tcp to 10.0.0.11:0 in t pre, maybe",
		}},
		"negations.nft": {windows: []string{
			"0-1/tcp dropped in t pre",
			"65001-65535/udp dropped in t pre",
			"0-9/udp dropped in t pre",
			"64000-64001/udp dropped in t pre",
			"20/udp dropped in t pre",
		}},
		"prefixes.nft": {windows: []string{
			"1/tcp to 10.0.0.1:0 in t pre",
			"2/tcp to 10.0.0.2:0 in t pre",
			"3/tcp to 10.0.0.3:0 in t pre, by address",
			"4/tcp to 10.0.0.4:0 in t pre",
			"7/tcp to 10.0.0.7:0 in t pre",
			"8192-8447/tcp dropped in t pre",
		}},
		"protocols.nft": {windows: []string{
			"1/tcp to 10.0.0.1:0 in t pre",
			"1/udp to 10.0.0.2:0 in t pre",
			"2/tcp 2/udp to 10.0.0.3:0 in t pre",
			"3/tcp 3/udp to 10.0.0.4:0 in t pre",
			"5/udp dropped in t pre",
			"6/udp dropped in t pre",
			"7/tcp 7/udp dropped in t pre",
		}},
		"links.nft": {
			windows: []string{
				"1/tcp dropped in t both",
				"2/tcp dropped in t both",
				"4/tcp dropped in t both",
				"5/tcp dropped in t both",
				"6/tcp dropped in t both",
			},
			linux: []string{
				"6/tcp dropped in t both",
				"7/tcp dropped in t both",
				"8/tcp dropped in t both",
			},
		},
		"unknown.nft": {
			windows: []string{
				"1/tcp to 10.0.0.1:0 in t pre, maybe",
				"1/tcp to 10.0.0.2:0 in t pre, maybe",
				"2/tcp to 10.0.0.1:0 in t pre, maybe",
				"3/tcp to 10.0.0.3:0 in t pre, maybe",
				"4/tcp to 10.0.0.4:0 in t pre, maybe",
				"5/tcp dropped in t pre, maybe",
				"6/tcp dropped in t pre",
				"7/tcp dropped in t pre, maybe",
				"8/tcp dropped in t pre, maybe",
				"9/tcp dropped in t pre, maybe",
				"10/tcp dropped in t pre, maybe",
				"11/tcp dropped in t pre, maybe",
			},
			linux: []string{
				"1/udp to 10.0.0.1:0 in t out, maybe",
				"2/udp to 10.0.0.2:0 in t out",
				"1/udp to 10.0.0.2:0 in t out, maybe",
			},
		},
		"unsure-accept.nft": {windows: []string{
			"3/tcp dropped in a pre, maybe",
			"0/tcp 5-65535/tcp 0-65535/udp dropped in a pre",
			"1-2/tcp dropped in a pre, maybe",
			"4/tcp to 10.0.0.1:0 in b pre",
			"1-3/tcp to 10.0.0.1:0 in b pre, maybe",
		}},
		"unsure-jump.nft": {windows: []string{
			"1/tcp dropped in t sub, maybe",
			"3/tcp to 10.0.0.3:0 in t sub, maybe",
			"4-5/tcp to 10.0.0.1:0 in t pre",
			"1-3/tcp to 10.0.0.1:0 in t pre, maybe",
		}},
		"catch-all.nft": {windows: []string{
			"1/tcp dropped in t pre",
			"2/tcp to 10.0.0.2:0 in t pre",
			"4-5/tcp to 10.0.0.4:0 in t pre",
			"0/tcp 3/tcp 6-65535/tcp to 10.0.0.9:0 in t pre",
		}},
		"conntrack.nft": {windows: []string{
			"1/tcp dropped in t pre",
			"2/tcp dropped in t pre",
		}},
		"before-conntrack.nft": {windows: []string{
			"1-2/tcp dropped in t pre, maybe",
			"3/tcp dropped in t pre, maybe",
		}},
		"statements.nft": {windows: []string{
			"1/tcp dropped in t pre",
			"2/tcp dropped in t pre, maybe",
			"3/tcp dropped in t pre, maybe",
			"4/tcp dropped in t pre, maybe",
			"5/tcp dropped in t pre, maybe",
			"6/tcp dropped in t pre",
			"10/tcp dropped in t pre",
			"7/tcp 11-12/tcp to 10.0.0.1:0 in t nat",
			"2-5/tcp 8-9/tcp to 10.0.0.1:0 in t nat, maybe",
		}},
		"redirect.nft": {
			windows: []string{
				"1/tcp redirected in t pre",
				"2/tcp redirected in t pre",
				"3/tcp redirected in t pre",
			},
			linux: []string{
				"53/udp redirected in t out, by address",
			},
		},
		"families.nft": {windows: []string{
			"1/tcp to 10.0.0.1:0 in a pre",
			"3/tcp to 10.0.0.3:0 in a pre, by address",
			"4/tcp to 10.0.0.4:0 in a pre",
		}},
		"ours.nft": {windows: []string{
			"1/tcp to 10.0.0.1:0 in wslmirror2 pre",
		}},
		"written.iptables": {
			windows: []string{
				"6000/tcp dropped in raw PREROUTING, by address",
				"8080/tcp to 172.17.0.2:80 in nat ENGINE",
				"8081/tcp to 172.17.0.3:0 in nat ENGINE, by address",
				"53/udp to 172.17.0.4:5353 in nat ENGINE",
				"8082/tcp to computed:80 in nat ENGINE",
				"8083/tcp to 172.17.0.5:0 in nat ENGINE",
				"8084/tcp to computed:0 in nat ENGINE",
				"2000/tcp 2002-2004/tcp to 172.17.0.6:0 in nat ENGINE",
				"8085/tcp redirected in nat ENGINE",
				"8086/tcp redirected in nat ENGINE",
				"8087/tcp to 172.17.0.7:80 in nat ENGINE, maybe",
				"8088/tcp to 172.17.0.8:80 in nat ENGINE, maybe",
				"8089/tcp to 172.17.0.8:80 in nat ENGINE",
				"9000-9009/tcp to 172.17.0.9:0 in nat ENGINE",
				"8090/tcp to 172.17.0.9:80 in nat ENGINE, maybe",
			},
			linux: []string{
				"5000/tcp to 172.17.0.2:0 in nat OUTPUT",
			},
		},
	}
	h, index := host(t)
	files, err := filepath.Glob("testdata/walk/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		test, ok := tests[name]
		if !ok {
			t.Errorf("%s is not in the table", file)
			continue
		}
		t.Run(name, func(t *testing.T) {
			rs := load(t, h, file)
			checkWalk(t, rs, FromWindows(Iface{"loopback0", index}), test.windows)
			checkWalk(t, rs, FromLinux(Iface{"loopback0", index}), test.linux)
		})
	}
	if len(files) != len(tests) {
		t.Errorf("%d files for %d tests", len(files), len(tests))
	}
}

// An old iptables-nft writes all ports as xtables extensions.
func TestWalkXtables(t *testing.T) {
	unknown := func(b []byte) *xt.Unknown { u := xt.Unknown(b); return &u }
	multiport := make([]byte, 48)
	multiport[0], multiport[1] = 1, 3 // destination, three ports
	for i, p := range []uint16{80, 90, 99} {
		multiport[2+2*i], multiport[3+2*i] = byte(p), byte(p>>8)
	}
	multiport[32+1] = 1 // 90-99
	inverted := slices.Clone(multiport)
	inverted[47] = 1

	dnat := func(min, max string, first, last uint16, flags xt.NatRangeFlags) *expr.Target {
		r := xt.NatRange2{NatRange: xt.NatRange{Flags: uint(flags), MinPort: first, MaxPort: last}}
		r.MinIP, r.MaxIP = ipv4(min), ipv4(max)
		return &expr.Target{Name: "DNAT", Rev: 2, Info: &r}
	}
	both := xt.NatRangeMapIPs | xt.NatRangeProtoSpecified
	oldDNAT := &expr.Target{Name: "DNAT", Rev: 0, Info: &xt.NatIPv4MultiRangeCompat{{
		Flags: uint(both), MinIP: ipv4("10.0.0.1"), MaxIP: ipv4("10.0.0.1"), MinPort: 80, MaxPort: 80,
	}}}
	tcp := func(first, last uint16, inv xt.TcpInvFlagset) *expr.Match {
		return &expr.Match{Name: "tcp", Info: &xt.Tcp{SrcPorts: [2]uint16{0, 0xffff}, DstPorts: [2]uint16{first, last}, InvFlags: inv}}
	}
	udp := func(src uint16, first, last uint16, inv xt.UdpInvFlagset) *expr.Match {
		return &expr.Match{Name: "udp", Info: &xt.Udp{SrcPorts: [2]uint16{src, 0xffff}, DstPorts: [2]uint16{first, last}, InvFlags: inv}}
	}
	addrtype := func(dest uint16, flags xt.AddrTypeFlags) *expr.Match {
		return &expr.Match{Name: "addrtype", Rev: 1, Info: &xt.AddrTypeV1{Dest: dest, Flags: flags}}
	}
	const local, unicast = 1 << 2, 1 << 1
	comment := xt.Comment("a comment")
	drop := &expr.Verdict{Kind: expr.VerdictDrop}

	tests := map[string]struct {
		exprs []expr.Any
		want  string
	}{
		"tcp":                    {[]expr.Any{tcp(80, 80, 0), drop}, "80/tcp dropped"},
		"tcp, a range":           {[]expr.Any{tcp(80, 89, 0), drop}, "80-89/tcp dropped"},
		"tcp, all but":           {[]expr.Any{tcp(1, 65535, xt.TcpInvDestPorts), drop}, "0/tcp dropped"},
		"tcp, not SYN":           {[]expr.Any{&expr.Match{Name: "tcp", Info: &xt.Tcp{SrcPorts: [2]uint16{0, 0xffff}, DstPorts: [2]uint16{1, 1}, FlagsMask: 2}}, drop}, "1/tcp dropped, maybe"},
		"udp":                    {[]expr.Any{udp(0, 53, 53, 0), drop}, "53/udp dropped"},
		"udp, all but":           {[]expr.Any{udp(0, 0, 65000, xt.UdpInvDestPorts), drop}, "65001-65535/udp dropped"},
		"udp, by source":         {[]expr.Any{udp(1024, 53, 53, 0), drop}, "53/udp dropped, maybe"},
		"addrtype local":         {[]expr.Any{tcp(1, 1, 0), addrtype(local, 0), drop}, "1/tcp dropped"},
		"addrtype not local":     {[]expr.Any{addrtype(local, 2), drop}, ""},
		"addrtype of others":     {[]expr.Any{addrtype(unicast, 0), drop}, ""},
		"addrtype of a link":     {[]expr.Any{tcp(1, 1, 0), addrtype(local, 4), drop}, "1/tcp dropped, maybe"},
		"comment":                {[]expr.Any{tcp(1, 1, 0), &expr.Match{Name: "comment", Info: &comment}, drop}, "1/tcp dropped"},
		"multiport":              {[]expr.Any{tcp(0, 65535, 0), &expr.Match{Name: "multiport", Rev: 1, Info: unknown(multiport)}, drop}, "80/tcp 90-99/tcp dropped"},
		"multiport, inverted":    {[]expr.Any{tcp(79, 100, 0), &expr.Match{Name: "multiport", Rev: 1, Info: unknown(inverted)}, drop}, "79/tcp 81-89/tcp 100/tcp dropped"},
		"multiport of old":       {[]expr.Any{tcp(1, 1, 0), &expr.Match{Name: "multiport", Rev: 0, Info: unknown(multiport[:32])}, drop}, "1/tcp dropped, maybe"},
		"an unknown match":       {[]expr.Any{tcp(1, 1, 0), &expr.Match{Name: "recent", Rev: 1, Info: unknown([]byte{1})}, drop}, "1/tcp dropped, maybe"},
		"DNAT":                   {[]expr.Any{tcp(1, 1, 0), dnat("10.0.0.1", "10.0.0.1", 80, 80, both)}, "1/tcp to 10.0.0.1:80"},
		"DNAT, old":              {[]expr.Any{tcp(1, 1, 0), oldDNAT}, "1/tcp to 10.0.0.1:80"},
		"DNAT, the port stays":   {[]expr.Any{tcp(1, 1, 0), dnat("10.0.0.1", "10.0.0.1", 0, 0, xt.NatRangeMapIPs)}, "1/tcp to 10.0.0.1:0"},
		"DNAT, the address does": {[]expr.Any{tcp(1, 1, 0), dnat("0.0.0.0", "0.0.0.0", 80, 80, xt.NatRangeProtoSpecified)}, "1/tcp to computed:80"},
		"DNAT to many":           {[]expr.Any{tcp(1, 1, 0), dnat("10.0.0.1", "10.0.0.9", 80, 80, both)}, "1/tcp to computed:80"},
		"DNAT to many ports":     {[]expr.Any{tcp(1, 1, 0), dnat("10.0.0.1", "10.0.0.1", 80, 90, both)}, "1/tcp to 10.0.0.1:0"},
		"REJECT":                 {[]expr.Any{tcp(1, 1, 0), &expr.Target{Name: "REJECT", Info: unknown(make([]byte, 4))}}, "1/tcp dropped"},
		"MARK":                   {[]expr.Any{&expr.Target{Name: "MARK", Rev: 2, Info: unknown(make([]byte, 8))}, tcp(1, 1, 0), drop}, "1/tcp dropped"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			// Through the bytes, as the kernel sends them.
			r := &rule{}
			for _, e := range test.exprs {
				b, err := expr.Marshal(2, e)
				if err != nil {
					t.Fatal(err)
				}
				decoded, err := decodeExpr(2, b)
				if err != nil || decoded.expr == nil {
					t.Fatalf("decode %T: %+v, %v", e, decoded, err)
				}
				r.exprs = append(r.exprs, decoded)
			}
			var want []string
			if test.want != "" {
				want = []string{strings.Replace(test.want, ",", " in nat PREROUTING,", 1)}
				if !strings.Contains(test.want, ",") {
					want[0] += " in nat PREROUTING"
				}
			}
			checkWalk(t, oneRule(r), FromWindows(Iface{"loopback0", 2}), want)
		})
	}

	// An unknown target may have decided.
	unsure := oneRule(&rule{exprs: []namedExpr{{"target", &expr.Target{Name: "TPROXY"}}}},
		&rule{exprs: []namedExpr{{"immediate", drop}}})
	checkWalk(t, unsure, FromWindows(Iface{"loopback0", 2}), []string{allPorts + " dropped in nat PREROUTING, maybe"})
}

func ipv4(s string) []byte {
	a := [4]byte{}
	fmt.Sscanf(s, "%d.%d.%d.%d", &a[0], &a[1], &a[2], &a[3])
	return a[:]
}

// oneRule returns a ruleset with one chain.
func oneRule(rules ...*rule) *Ruleset {
	id := chainID{tableID{2, "nat"}, "PREROUTING"}
	c := &chain{chainID: id, hooked: true, kind: nftables.ChainTypeNAT, priority: *nftables.ChainPriorityNATDest, rules: rules}
	return &Ruleset{own: tableID{2, ownTable}, base: []*chain{c}, chains: map[chainID]*chain{id: c}}
}
