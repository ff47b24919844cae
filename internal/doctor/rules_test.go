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
		"goto main":               {r(func(r *netwatch.Rule) { r.Action, r.Table, r.Goto = unix.FR_ACT_GOTO, 0, 32766 }), 0, Fault, "lookup main"},
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
