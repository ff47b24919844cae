package doctor

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/netwatch"
)

// rulesOn is the check of the ip rules as h's kernel has them.
func rulesOn(t *testing.T, h *lab.Host) (c Check) {
	t.Helper()
	o := healthy()
	if err := h.Do(func() (err error) { o.Net.Value, err = readNetwork("loopback0"); return err }); err != nil {
		t.Fatal(err)
	}
	return run(o, "ip-rules")
}

func runOn(t *testing.T, h *lab.Host, commands ...string) {
	t.Helper()
	for _, c := range commands {
		if _, err := h.Run("sh", "-c", strings.TrimPrefix(c, "sudo ")); err != nil {
			t.Fatal(err)
		}
	}
}

// bench is WSL with hostAddressLoopback, and a VPN's table.
func bench(t *testing.T) *lab.Host {
	t.Helper()
	b := labtest.New(t, lab.Options{Mode: lab.MirroredHAL})
	runOn(t, b.WSL, "ip route add default dev eth0 table 51820")
	if c := rulesOn(t, b.WSL); c.Verdict != OK {
		t.Errorf("healthy: %+v", c)
	}
	return b.WSL
}

// A foreign rule is named if the kernel sends packets elsewhere because of it; what
// doctor says then puts it behind WSL's, and WSL's in order. Somebody wants it, as a
// VPN does.
func TestForeignRules(t *testing.T) {
	const del, add = "sudo ip rule del pref 0 ", "sudo ip rule add pref 3 "
	h := bench(t)
	for rule, test := range map[string]struct {
		want Verdict
		says string // in Seen
		do   string // "": any
	}{
		"pref 3 lookup main": {OK, "", ""},
		"pref 0 lookup main": {Fault, "0: from all lookup main", add + "from all lookup main\n" + del + "from all lookup main"},
		// The kernel deletes what fits, which is WSL's own first.
		"pref 0 lookup local": {Fault, "0: from all lookup local", ""},
		"pref 0 ipproto tcp lookup local": {Fault, "localhost from Linux", strings.Repeat(del+"from all ipproto tcp lookup local\n", 3) +
			"sudo ip rule add pref 0 from all iif eth0 ipproto tcp lookup local\nsudo ip rule add pref 0 from all iif loopback0 ipproto tcp lookup local"},
		"pref 0 to 10.0.0.0/8 lookup main":             {OK, "", ""},
		"pref 0 to 127.0.0.1 lookup main":              {Fault, "to 127.0.0.1/32", ""},
		"pref 0 from 127.0.0.0/8 lookup main":          {Fault, "from 127.0.0.0/8", ""},
		"pref 0 from 127.0.0.0/8 iif eth0 lookup main": {OK, "", ""},
		"pref 0 to 192.0.2.2 ipproto udp lookup local": {Warning, "192.0.2.2 from Linux", ""},
		"pref 0 iif docker0 lookup main":               {OK, "", ""},
		"pref 0 oif eth0 lookup main":                  {OK, "", ""},
		"pref 0 fwmark 0x2000/0x2000 lookup main":      {OK, "", ""},
		"pref 0 not fwmark 0xca6c lookup 51820":        {Fault, "not from all fwmark", add + "not from all fwmark 0xca6c/0xffffffff lookup 51820\n" + del + "not from all fwmark 0xca6c/0xffffffff lookup 51820"},
		// Of the LAN the table main has more than the default route.
		"pref 0 lookup main suppress_prefixlength 0":            {Warning, "192.0.2.2 from Linux", ""},
		"pref 0 lookup 999":                                     {OK, "", ""}, // it has no route
		"pref 0 ipproto icmp lookup main":                       {Fault, "ping", ""},
		"pref 0 ipproto icmp lookup main protocol 99":           {Fault, "ping", add + "from all ipproto 1 lookup main protocol 99\n" + del + "from all ipproto 1 lookup main"},
		"pref 0 ipproto 132 lookup main":                        {OK, "", ""},
		"pref 0 ipproto tcp dport 80 lookup main":               {Warning, "(and more)", ""},
		"pref 0 ipproto tcp dport 80 iif docker0 lookup main":   {OK, "", ""},
		"pref 0 prohibit":                                       {Fault, "prohibit", add + "from all prohibit\n" + del + "from all prohibit"},
		"pref 0 ipproto udp blackhole":                          {Fault, "blackhole", ""},
		"pref 0 nop":                                            {OK, "", ""},
		"pref 0 goto 32766":                                     {Fault, "goto 32766", add + "from all goto 32766\n" + del + "from all goto 32766"},
		"pref 0 goto 1":                                         {OK, "", ""},
		"pref 0 goto 2":                                         {Fault, "goto 2", del + "from all goto 2"}, // skips nothing but WSL's
		"pref 0 tos 0x10 lookup main":                           {OK, "", ""},
		"pref 0 not iif docker0 uidrange 0-1000 lookup main":    {Fault, "(and more)", "# the next command deletes this rule, which doctor does not fully understand; if you need it, first add it with 'pref 3', behind WSL's: 0: not from all iif docker0 (and more) lookup main\n" + del + "not from all iif docker0 lookup main"},
		"pref 0 ipproto tcp dport 53 lookup local":              {OK, "", ""}, // the cure for a port that Windows never sends
		"pref 0 ipproto tcp dport 53 lookup main":               {Warning, "sends some packets elsewhere", ""},
		"pref 0 iif loopback0 ipproto tcp lookup 51820 proto 4": {OK, "", ""}, // behind WSL's of the same preference
	} {
		t.Run(rule, func(t *testing.T) {
			runOn(t, h, "ip rule add "+rule)
			c := rulesOn(t, h)
			if c.Verdict != test.want || !strings.Contains(c.Seen, test.says) || test.do != "" && c.Do != test.do {
				t.Errorf("want %s with %q, and\n%s\ngot %s %s\n%s", test.want, test.says, test.do, c.Verdict, c.Seen, c.Do)
			}
			if c.Verdict != Fault || !strings.Contains(c.Do, "sudo ip rule") || strings.HasPrefix(c.Do, "#") {
				runOn(t, h, "ip rule del "+rule)
			} else {
				runOn(t, h, strings.Split(c.Do, "\n")...)
			}
			if after := rulesOn(t, h); after.Verdict != OK {
				t.Errorf("cured: %+v", after)
			}
			runOn(t, h, "ip rule del pref 3 2>/dev/null || true")
		})
	}
}

// Of WSL's rules each that is missing is named, if something misses it.
func TestMissingRules(t *testing.T) {
	h := bench(t)
	for _, rule := range []string{
		"pref 0 from all iif loopback0 ipproto tcp lookup local", "pref 0 from all iif loopback0 ipproto udp lookup local",
		"pref 0 from all iif eth0 ipproto tcp lookup local", "pref 0 from all iif eth0 ipproto udp lookup local",
		"pref 1 from all ipproto tcp lookup 127", "pref 1 from all ipproto udp lookup 127",
		"pref 1 from all ipproto tcp lookup 128", "pref 1 from all ipproto udp lookup 128",
		"pref 2 from all lookup local",
	} {
		runOn(t, h, "ip rule del "+rule)
		c := rulesOn(t, h)
		if c.Do != "sudo ip rule add "+rule {
			t.Errorf("without %q: %+v", rule, c)
		}
		runOn(t, h, "ip rule add "+rule)
	}
	if c := rulesOn(t, h); c.Verdict != OK {
		t.Errorf("cured: %+v", c)
	}
}

// Where no rule is to blame, none is blamed.
func TestNoRouteIsNoShadow(t *testing.T) {
	h := bench(t)
	runOn(t, h, "ip rule add pref 3 lookup main", "ip route flush table local")
	if c := rulesOn(t, h); c.Verdict != Fault || strings.Contains(c.Do, "ip rule") || !strings.Contains(c.Seen, "table local has no route to 127.0.0.1") {
		t.Errorf("%+v", c)
	}
}

// What the kernel refuses for another reason is another check's.
func TestRefusedByASysctl(t *testing.T) {
	h := bench(t)
	runOn(t, h, "echo 0 >/proc/sys/net/ipv4/conf/loopback0/route_localnet")
	if c := rulesOn(t, h); c.Verdict != Unknown || !strings.Contains(c.Seen, "localhost from Windows: not certain") {
		t.Errorf("%+v", c)
	}
}

// The kernel deletes the first rule that fits, and that may be one of WSL's, or one
// by which the daemon remembers something.
func TestRemoval(t *testing.T) {
	n := healthy().Net.Value
	target := netwatch.Rule{Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_LOCAL, IPProto: unix.IPPROTO_TCP, SuppressPrefix: -1}
	mark := n.Rules[4] // of a bridge's route_localnet
	mark.Iif, mark.IPProto = "docker0", unix.IPPROTO_TCP
	n.Rules = slices.Insert(n.Rules, 4, mark, target)
	got := strings.Join(n.removal(target), "\n")
	want := strings.Repeat("sudo ip rule del pref 0 from all ipproto tcp lookup local\n", 4) +
		`sudo ip rule add pref 0 from all iif loopback0 ipproto tcp lookup local
sudo ip rule add pref 0 from all iif eth0 ipproto tcp lookup local
sudo ip rule add pref 0 from all fwmark 0x1000/0x1000 iif docker0 ipproto tcp lookup local protocol 87`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What WSL damages when loopback0 comes again is named, also where no packet misses it
// yet, and what doctor says cures it.
func TestRulesAfterAReplug(t *testing.T) {
	for _, mode := range []lab.Mode{lab.Mirrored, lab.MirroredHAL} {
		b := labtest.New(t, lab.Options{Mode: mode})
		if err := b.ReplugLoopback0(); err != nil {
			t.Fatal(err)
		}
		for range 2 { // with hostAddressLoopback the missing rule comes first
			c := rulesOn(t, b.WSL)
			if c.Verdict == OK {
				break
			}
			if c.Verdict != Warning || !strings.Contains(c.Seen, "iif eth0 ipproto tcp") && mode == lab.Mirrored {
				t.Errorf("%s: %+v", mode, c)
			}
			runOn(t, b.WSL, strings.Split(c.Do, "\n")...)
		}
		if c := rulesOn(t, b.WSL); c.Verdict != OK {
			t.Errorf("%s: cured: %+v", mode, c)
		}
	}
}
