package e2e

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// obey runs the commands that a check suggests, in h. It leaves out comments, and commands
// that need systemd or Windows.
func obey(t *testing.T, h *lab.Host, c doctor.Check) {
	t.Helper()
	for line := range strings.Lines(c.Do) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "sudo ")
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "systemctl") || strings.HasPrefix(line, "wsl.exe") {
			continue
		}
		if _, err := h.Run("sh", "-c", line); err != nil {
			t.Errorf("%s says %q: %v", c.Name, line, err)
		}
	}
}

// Each fault is created. Doctor must name that fault and no other, and its commands must
// cure it if cured is set.
func TestDoctorNamesTheFault(t *testing.T) {
	playMirrored(t)
	sh := func(script string) func(*testing.T, *lab.Bench, *daemon) {
		return func(t *testing.T, b *lab.Bench, _ *daemon) {
			if _, err := b.WSL.Run("sh", "-c", script); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := map[string]struct {
		want   string
		make   func(*testing.T, *lab.Bench, *daemon)
		cured  bool // by doctor's commands
		breaks bool // the path from Windows to a server in Linux or in the container
	}{
		"flushed ruleset":          {"wsl-chains", sh("nft flush ruleset"), true, false},
		"flushed chain":            {"wsl-chains", sh("nft flush chain ip nat WSLPOSTROUTING"), true, false},
		"rp_filter of all":         {"rp-filter", sh("echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter"), true, false},
		"rp_filter of loopback0":   {"rp-filter", sh("echo 1 >/proc/sys/net/ipv4/conf/loopback0/rp_filter"), true, false},
		"route_localnet":           {"route-localnet", sh("echo 0 >/proc/sys/net/ipv4/conf/loopback0/route_localnet"), true, true},
		"wider range":              {"port-range", sh("echo 32768 60999 >/proc/sys/net/ipv4/ip_local_port_range"), true, false},
		"used block":               {"port-headroom", exhaust, false, false},
		"rule local":               {"ip-rules", sh("ip rule add pref 0 lookup local"), true, true},
		"rule main for tcp":        {"ip-rules", sh("ip rule add pref 0 ipproto tcp lookup main"), true, true},
		"rule to localhost":        {"ip-rules", sh("ip rule add pref 0 to 127.0.0.0/8 lookup main"), true, true},
		"rule prohibit":            {"ip-rules", sh("ip rule add pref 0 ipproto udp prohibit"), false, false},
		"rule of a VPN":            {"ip-rules", sh("ip route add default dev eth0 table 51820; ip rule add pref 0 lookup main suppress_prefixlength 0; ip rule add pref 0 not fwmark 0xca6c lookup 51820"), true, true},
		"exit node":                {"directions", sh("ip route add default dev eth0 table 52; ip rule add pref 5270 lookup 52"), true, true},
		"answers of containers":    {"directions", sh("ip route add default dev eth0 table 52; ip rule add pref 0 from 172.17.0.0/16 lookup 52"), true, true},
		"no UDP to containers":     {"directions", sh("ip rule add pref 5270 ipproto udp prohibit"), true, false},
		"rule of WSL is gone":      {"ip-rules", sh("ip rule del pref 1 ipproto udp lookup 127"), true, false},
		"way in is gone":           {"ip-rules", sh("ip rule del pref 0 iif loopback0 ipproto tcp lookup local; ip rule del pref 2"), true, true},
		"route is gone":            {"table-127", sh("ip route flush table 127"), false, true},
		"neighbour is gone":        {"gateway", sh("ip neigh flush dev loopback0 nud permanent"), true, true},
		"loopback0 down":           {"loopback0", func(t *testing.T, b *lab.Bench, _ *daemon) { b.Loopback0Down() }, false, true},
		"loopback0 gone":           {"loopback0", func(t *testing.T, b *lab.Bench, _ *daemon) { b.RemoveLoopback0() }, false, true},
		"firewall of one's own":    {"input", sh(`nft 'table inet filter { chain input { type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept; icmp type echo-request accept; }; }'`), true, true},
		"lo alone lets out":        {"output", sh(`nft 'table inet fw { chain out { type filter hook output priority 0; policy drop; oif "lo" accept; }; }'`), true, true},
		"and to containers":        {"output", sh(`nft 'table inet fw { chain out { type filter hook output priority 0; policy drop; oif { "lo", "loopback0" } accept; }; }'`), true, true},
		"anti-spoofing":            {"input", sh(`nft 'table ip raw { chain pre { type filter hook prerouting priority raw; iif != "lo" ip saddr 127.0.0.0/8 counter drop; }; }'`), true, true},
		"masquerade":               {"output", sh(`nft 'table ip vpn { chain post { type nat hook postrouting priority srcnat - 10; oif != "lo" masquerade; }; }'`), true, false},
		"iptables drops":           {"input", sh("iptables-nft -A INPUT ! -i lo -d 127.0.0.0/8 -j DROP"), true, true},
		"ufw drops":                {"ufw", sh("iptables-nft -N ufw-before-input; iptables-nft -A INPUT -j ufw-before-input; iptables-nft -A ufw-before-input ! -i lo -j DROP"), false, true},
		"firewalld drops":          {"firewalld", sh(`nft 'table inet firewalld { chain filter_INPUT { type filter hook input priority 10; ct state established accept; ct status dnat accept; iifname lo accept; icmp type echo-request accept; reject; }; }'`), false, true},
		"published, not listening": {"published-ports", sh(`nft 'table ip nat { chain CNI-DN { tcp dport 8090 dnat to 10.4.0.2:80; }; chain DOCKER { jump CNI-DN; }; }'`), false, false},
		"stopped":                  {"service", func(_ *testing.T, _ *lab.Bench, d *daemon) { d.stop(unix.SIGTERM) }, false, false},
		"killed":                   {"service", func(_ *testing.T, _ *lab.Bench, d *daemon) { d.proc.Stop(unix.SIGKILL) }, false, false},
		"hangs":                    {"service", func(_ *testing.T, _ *lab.Bench, d *daemon) { d.proc.Cmd.Process.Signal(unix.SIGSTOP) }, false, false},
		"two":                      {"instances", func(t *testing.T, b *lab.Bench, _ *daemon) { start(t, b.WSL).awaitState(status.Standby) }, false, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{})
			// With repair, the daemon would restore lost parts of WSL's setup.
			d := start(t, b.WSL, "--repair=false")
			d.awaitState(status.Active)
			publishes(t, b, d)
			if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:9000"); err != nil {
				t.Fatal(err)
			}
			answered := func(port string, wait time.Duration) error {
				_, err := b.Windows.Ask("tcp", "127.0.0.1:"+port, wait)
				return err
			}
			before := ruleset(t, b.WSL)
			diagnose(t, b.WSL, d.dir).expect(t, "healthy")
			test.make(t, b, d)
			if !test.breaks {
				if err := answered("9000", patience); err != nil {
					t.Errorf("with the fault: %v", err)
				}
			} else if answered("9000", silence) == nil && answered("8080", silence) == nil {
				t.Error("Windows is answered with the fault")
			}
			got := diagnose(t, b.WSL, d.dir)
			got.expect(t, "with the fault", test.want)
			if got.check(test.want).Do == "" {
				t.Error("does not say what to do")
			}
			if !test.cured {
				return
			}
			obey(t, b.WSL, got.check(test.want))
			diagnose(t, b.WSL, d.dir).expect(t, "cured")
			if err := errors.Join(answered("9000", patience), answered("8080", patience)); err != nil {
				t.Errorf("cured: %v", err)
			}
			switch name {
			case "flushed chain":
				if after := ruleset(t, b.WSL); after != before {
					t.Errorf("before\n%s\nafter\n%s", before, after)
				}
			case "rule of a VPN": // is kept, at a priority where it does no harm
				if rules, err := b.WSL.Run("ip", "rule"); err != nil || strings.Count(rules, "51820") != 1 ||
					!strings.Contains(rules, "3:\tnot from all fwmark 0xca6c lookup 51820") {
					t.Errorf("%v\n%s", err, rules)
				}
			}
		})
	}
}

// With a real engine whose ports the kernel serves: doctor reports no fault for harmless
// rules of others, and names and cures rules that stop the replies of containers.
func TestDoctorBesideRulesOfOthers(t *testing.T) {
	playMirrored(t)
	tailscale := "iptables-nft -N ts-input; iptables-nft -N ts-forward; iptables-nft -I INPUT -j ts-input; iptables-nft -I FORWARD -j ts-forward; " +
		"iptables-nft -A ts-input -s 100.64.0.1 -i lo -j ACCEPT; iptables-nft -A ts-input -s 100.64.0.0/10 ! -i tailscale0 -j DROP; " +
		"iptables-nft -A ts-forward -i tailscale0 -j MARK --set-xmark 0x40000/0xff0000; iptables-nft -A ts-forward -m mark --mark 0x40000/0xff0000 -j ACCEPT; " +
		"iptables-nft -A ts-forward -s 100.64.0.0/10 -o tailscale0 -j DROP; iptables-nft -A ts-forward -o tailscale0 -j ACCEPT; " +
		"iptables-nft -t nat -N ts-postrouting; iptables-nft -t nat -I POSTROUTING -j ts-postrouting; iptables-nft -t nat -A ts-postrouting -m mark --mark 0x40000/0xff0000 -j MASQUERADE; " +
		"ip rule add pref 5210 fwmark 0x80000/0xff0000 lookup main; ip rule add pref 5250 fwmark 0x80000/0xff0000 unreachable; ip rule add pref 5270 lookup 52; ip route add 100.64.0.0/10 dev eth0 table 52"
	wireguard := `nft 'table ip wg-quick-wg0 { chain preraw { type filter hook prerouting priority raw; iifname != "wg0" ip daddr 10.8.0.2 fib saddr type != local drop; }; ` +
		`chain premangle { type filter hook prerouting priority mangle; meta l4proto udp meta mark set ct mark; }; chain postmangle { type filter hook postrouting priority mangle; meta l4proto udp meta mark 0xca6c ct mark set meta mark; }; }'; ` +
		"ip route add default dev eth0 table 51820; ip rule add pref 32764 lookup main suppress_prefixlength 0; ip rule add pref 32765 not fwmark 0xca6c lookup 51820"
	for name, test := range map[string]struct{ engine, script, want string }{
		"Tailscale":         {"docker-iptables", tailscale, ""},
		"WireGuard":         {"docker-iptables", wireguard, ""},
		"answers forwarded": {"podman-netavark-nftables", `nft 'table inet fw { chain f { type filter hook forward priority 0; iifname "podman*" ct state established drop; }; }'`, "forward"},
		"nothing forwarded": {"docker-iptables-noproxy", `nft 'table inet fw { chain f { type filter hook forward priority 0; policy drop; }; }'`, "forward"},
		"to Linux's client": {"docker-iptables-noproxy", `nft 'table inet fw { chain in { type filter hook input priority 0; policy drop; iif { "lo", "loopback0" } accept; }; }'`, "input"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{})
			engine := labtest.StartEngine(t, b, test.engine)
			labtest.RunContainer(t, engine, "web", "8080:80/tcp", "8080:80/udp")
			d := start(t, b.WSL)
			d.await("two ports", func(s status.Snapshot) bool { return s.State == status.Active && len(s.Ports) == 2 })
			if _, err := b.WSL.Run("sh", "-c", test.script); err != nil {
				t.Fatal(err)
			}
			got := diagnose(t, b.WSL, d.dir)
			if test.want != "" {
				got.expect(t, "with the fault", test.want)
				obey(t, b.WSL, got.check(test.want))
				got = diagnose(t, b.WSL, d.dir)
			}
			got.expect(t, "in the end")
			got.sees(t, "directions", doctor.OK, "Windows and Linux to Linux's ports (2), Linux to Windows")
			for _, proto := range []string{"tcp", "udp"} {
				answers(t, "in the end", b.Windows, proto, "8080", "web")
				answers(t, "in the end", b.WSL, proto, "8080", "web")
			}
		})
	}
}

// What is repaired, or does no harm yet, is only a warning.
func TestDoctorWarns(t *testing.T) {
	playMirrored(t)
	b := labtest.New(t, lab.Options{})
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	publishes(t, b, d)
	start(t, b.LAN) // another network's daemon does not count here
	diagnose(t, b.WSL, d.dir).sees(t, "instances", doctor.OK, "one")
	for _, script := range []string{
		"echo 0 >/proc/sys/net/ipv4/conf/loopback0/accept_local", "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet",
		"ip rule add pref 0 ipproto tcp dport 80 lookup main",
		// With hostAddressLoopback on, a second address that WSL has not set up yet.
		"ip route replace 192.0.2.2/32 dev eth0 table 128", "ip addr add 192.0.2.77/24 dev eth0",
	} {
		if _, err := b.WSL.Run("sh", "-c", script); err != nil {
			t.Fatal(err)
		}
	}
	got := diagnose(t, b.WSL, d.dir)
	got.expect(t, "with warnings")
	got.sees(t, "guard", doctor.OK, "wslmirror guards the links")
	for _, name := range []string{"accept-local", "ip-rules", "table-128"} {
		if c := got.check(name); c.Verdict != doctor.Warning {
			t.Errorf("%+v", c)
		}
	}
	d.proc.Stop(unix.SIGKILL)
	got = diagnose(t, b.WSL, d.dir)
	if c := got.check("table"); c.Verdict != doctor.Warning || c.Do != "sudo wslmirror cleanup" {
		t.Errorf("after a crash: %+v", c)
	}
	if c := got.check("guard"); c.Verdict != doctor.Warning {
		t.Errorf("nobody guards: %+v", c)
	}
}

// A daemon that waits for another link than WSL's says so, and does not report a fault of
// WSL.
func TestDoctorOnTheWrongInterface(t *testing.T) {
	playMirrored(t)
	b := labtest.New(t, lab.Options{})
	d := start(t, b.WSL, "--interface=loopbakc0")
	d.awaitState(status.Waiting)
	got := diagnose(t, b.WSL, d.dir)
	got.expect(t, "with a mistyped name", "service")
	got.sees(t, "service", doctor.Fault, "waits for loopbakc0")
	cmd := program(t, "status", "--runtime-dir", d.dir)
	var out bytes.Buffer
	cmd.Stdout = &out
	p, err := b.WSL.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	p.Wait()
	if text := out.String(); !strings.Contains(text, "WSL's link is loopback0") || strings.Contains(text, "--shutdown") {
		t.Error(text)
	}
}

// exhaust uses every port of the block for one destination.
func exhaust(t *testing.T, b *lab.Bench, _ *daemon) {
	const server = "192.0.2.1:7000"
	if _, err := b.LAN.ServeEcho("tcp", server); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := b.WSL.Dial("tcp", "", server, patience)
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
}
