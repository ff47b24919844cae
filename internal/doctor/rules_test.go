package doctor

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/netwatch"
)

func TestRulesWalk(t *testing.T) {
	r := func(fn func(*netwatch.Rule)) netwatch.Rule {
		rule := netwatch.Rule{Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_MAIN, SuppressPrefix: -1}
		fn(&rule)
		return rule
	}
	tests := map[string]struct {
		rule netwatch.Rule
		at   int // where it is put
		want Verdict
		says string
	}{
		"behind":                  {r(func(r *netwatch.Rule) { r.Priority = 3 }), 10, OK, ""},
		"everything by main":      {r(func(r *netwatch.Rule) {}), 0, Fault, "0: from all lookup main"},
		"to the LAN":              {r(func(r *netwatch.Rule) { r.To = netip.MustParsePrefix("10.0.0.0/8") }), 0, OK, ""},
		"to localhost":            {r(func(r *netwatch.Rule) { r.To = netip.MustParsePrefix("127.0.0.1/32") }), 0, Fault, "to 127.0.0.1/32"},
		"from localhost":          {r(func(r *netwatch.Rule) { r.From = netip.MustParsePrefix("127.0.0.0/8") }), 4, Warning, "from 127.0.0.0/8"},
		"from localhost, in":      {r(func(r *netwatch.Rule) { r.From, r.Iif = netip.MustParsePrefix("127.0.0.0/8"), "loopback0" }), 0, Fault, "from 127.0.0.0/8"},
		"to own LAN address":      {r(func(r *netwatch.Rule) { r.To = netip.MustParsePrefix("192.168.1.5/32") }), 0, Warning, "192.168.1.5 from Linux"},
		"another link":            {r(func(r *netwatch.Rule) { r.Iif = "docker0" }), 0, OK, ""},
		"bound sockets":           {r(func(r *netwatch.Rule) { r.Oif = "eth0" }), 0, OK, ""},
		"marked":                  {r(func(r *netwatch.Rule) { r.Mark, r.Mask = 0x2000, 0x2000 }), 0, OK, ""},
		"not marked":              {r(func(r *netwatch.Rule) { r.Not, r.Mark, r.Mask = true, 51820, 0xffffffff }), 0, Fault, "not from all fwmark"},
		"not marked, no default":  {r(func(r *netwatch.Rule) { r.Not, r.Mark, r.Mask, r.SuppressPrefix = true, 51820, 0xffffffff, 0 }), 0, OK, ""},
		"a table without a route": {r(func(r *netwatch.Rule) { r.Table = 51820 }), 0, OK, ""},
		"icmp":                    {r(func(r *netwatch.Rule) { r.IPProto = unix.IPPROTO_ICMP }), 0, Fault, "ping"},
		"sctp":                    {r(func(r *netwatch.Rule) { r.IPProto = 132 }), 0, OK, ""},
		"some ports":              {r(func(r *netwatch.Rule) { r.Other = true }), 0, Warning, "(and more)"},
		"vrf":                     {r(func(r *netwatch.Rule) { r.L3Mdev = true }), 0, OK, ""},
		"prohibit":                {r(func(r *netwatch.Rule) { r.Action, r.Table = unix.FR_ACT_PROHIBIT, 0 }), 0, Fault, "prohibit"},
		"nop":                     {r(func(r *netwatch.Rule) { r.Action, r.Table = unix.FR_ACT_NOP, 0 }), 0, OK, ""},
		"goto main":               {r(func(r *netwatch.Rule) { r.Action, r.Table, r.Goto = unix.FR_ACT_GOTO, 0, 32766 }), 0, Fault, "goto 32766"},
		"goto WSL's":              {r(func(r *netwatch.Rule) { r.Action, r.Table, r.Goto = unix.FR_ACT_GOTO, 0, 1 }), 4, OK, ""},
		"tos":                     {r(func(r *netwatch.Rule) { r.TOS = 0x10 }), 0, OK, ""},
	}
	for name, test := range tests {
		o := healthy()
		o.Rules.Value = slices.Insert(o.Rules.Value, test.at, test.rule)
		c := run(o, "ip-rules")
		if c.Verdict != test.want || !strings.Contains(c.Seen, test.says) {
			t.Errorf("%s: want %s with %q: %+v", name, test.want, test.says, c)
		}
	}
}

// Somebody wants the rule that is in the way, as a VPN does: it is to go on behind
// WSL's, before it is deleted where it is.
func TestShadowMovesBehind(t *testing.T) {
	const del, add = "sudo ip rule del pref 0 ", "sudo ip rule add pref 3 "
	for name, test := range map[string]struct {
		change func(*netwatch.Rule)
		want   string
	}{
		"wg-quick": {func(r *netwatch.Rule) { r.Not, r.Mark, r.Mask, r.Table = true, 0xca6c, 0xffffffff, 51820 },
			add + "not from all fwmark 0xca6c/0xffffffff lookup 51820\n" + del + "not from all fwmark 0xca6c/0xffffffff lookup 51820"},
		"of a daemon": {func(r *netwatch.Rule) { r.IPProto, r.Protocol = unix.IPPROTO_ICMP, 99 },
			add + "from all ipproto 1 lookup main protocol 99\n" + del + "from all ipproto 1 lookup main"},
		"local": {func(r *netwatch.Rule) { r.Table, r.IPProto = unix.RT_TABLE_LOCAL, unix.IPPROTO_TCP }, del + "from all ipproto tcp lookup local\n" +
			del + "from all ipproto tcp lookup local\n" + del + "from all ipproto tcp lookup local\n" +
			"sudo ip rule add pref 0 from all iif loopback0 ipproto tcp lookup local\nsudo ip rule add pref 0 from all iif eth0 ipproto tcp lookup local"},
		"prohibit": {func(r *netwatch.Rule) { r.Action, r.Table = unix.FR_ACT_PROHIBIT, 0 }, add + "from all prohibit\n" + del + "from all prohibit"},
		"goto":     {func(r *netwatch.Rule) { r.Action, r.Table, r.Goto = unix.FR_ACT_GOTO, 0, 32766 }, add + "from all goto 32766\n" + del + "from all goto 32766"},
		// The kernel takes no goto that leads backwards, and there is nothing to skip.
		"goto local": {func(r *netwatch.Rule) { r.Action, r.Table, r.Goto = unix.FR_ACT_GOTO, 0, 2 }, del + "from all goto 2"},
		"not understood": {func(r *netwatch.Rule) { r.Not, r.Iif, r.Other = true, "docker0", true },
			"# this rule is deleted next, and asks for more than doctor understands; if it is needed, add it first with 'pref 3', behind WSL's: 0: not from all iif docker0 (and more) lookup main\n" +
				del + "not from all iif docker0 lookup main"},
	} {
		o := healthy()
		rule := netwatch.Rule{Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_MAIN, SuppressPrefix: -1}
		test.change(&rule)
		o.Routes.Value = append(o.Routes.Value, Route{Table: 51820, To: netip.MustParsePrefix("0.0.0.0/0"), Link: "wg0", Type: unix.RTN_UNICAST})
		o.Rules.Value = slices.Insert(o.Rules.Value, 5, rule)
		c := run(o, "ip-rules")
		if c.Verdict != Fault || c.Do != test.want {
			t.Errorf("%s: %+v, want\n%s", name, c, test.want)
		}
		for line := range strings.Lines(c.Do) {
			runs(t, strings.TrimSuffix(line, "\n"))
		}
	}
}

// A rule that comes after WSL's is not in the way, whatever else is wrong.
func TestNoRouteIsNoShadow(t *testing.T) {
	for route, want := range map[int]Verdict{2: Fault, 3: Warning} { // localhost, and the address of the LAN
		o := healthy()
		gone := o.Routes.Value[route].To
		o.Routes.Value = slices.Delete(o.Routes.Value, route, route+1)
		c := run(o, "ip-rules")
		if c.Verdict != want || strings.Contains(c.Do, "ip rule") || !strings.Contains(c.Seen, "table local has no route to "+gone.Addr().String()[:3]) {
			t.Errorf("%s: %+v", gone, c)
		}
	}
}

// What is given of suppress_prefixlength is compared by the kernel as well.
func TestFitsSuppressed(t *testing.T) {
	all := netwatch.Rule{Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_MAIN, SuppressPrefix: -1}
	suppressed := all
	suppressed.SuppressPrefix = 0
	if fits(suppressed, all) || !fits(all, suppressed) || !fits(suppressed, suppressed) {
		t.Errorf("%v, %v, %v", fits(suppressed, all), fits(all, suppressed), fits(suppressed, suppressed))
	}
}

func TestMissingRules(t *testing.T) {
	for i, want := range []string{
		"sudo ip rule add pref 0 from all iif loopback0 ipproto tcp lookup local",
		"sudo ip rule add pref 0 from all iif loopback0 ipproto udp lookup local",
		"sudo ip rule add pref 0 from all iif eth0 ipproto tcp lookup local",
		"sudo ip rule add pref 0 from all iif eth0 ipproto udp lookup local",
		"", // ours
		"sudo ip rule add pref 1 from all ipproto tcp lookup 127",
		"sudo ip rule add pref 1 from all ipproto udp lookup 127",
		"sudo ip rule add pref 1 from all ipproto tcp lookup 128",
		"sudo ip rule add pref 1 from all ipproto udp lookup 128",
		"sudo ip rule add pref 2 from all lookup local",
	} {
		o := healthy()
		o.Rules.Value = slices.Delete(o.Rules.Value, i, i+1)
		if c := run(o, "ip-rules"); c.Do != want {
			t.Errorf("%d: %+v, want %q", i, c, want)
		}
	}
}

// The kernel deletes the first rule that fits, and that may be one of WSL's.
func TestRemoval(t *testing.T) {
	o := healthy()
	target := netwatch.Rule{Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_LOCAL, IPProto: unix.IPPROTO_TCP, SuppressPrefix: -1}
	mark := o.Rules.Value[4] // of a bridge's route_localnet
	mark.Iif, mark.IPProto = "docker0", unix.IPPROTO_TCP
	o.Rules.Value = slices.Insert(o.Rules.Value, 4, mark, target)
	got := strings.Join(o.removal(target), "\n")
	want := `sudo ip rule del pref 0 from all ipproto tcp lookup local
sudo ip rule del pref 0 from all ipproto tcp lookup local
sudo ip rule del pref 0 from all ipproto tcp lookup local
sudo ip rule del pref 0 from all ipproto tcp lookup local
sudo ip rule add pref 0 from all iif loopback0 ipproto tcp lookup local
sudo ip rule add pref 0 from all iif eth0 ipproto tcp lookup local
sudo ip rule add pref 0 from all fwmark 0x1000/0x1000 iif docker0 ipproto tcp lookup local protocol 87`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
