package doctor

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/sockdiag"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/trace"
	"github.com/wslmirror/wslmirror/internal/windows"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

var errHidden = errors.New("hidden")

// healthy is a machine on which all is well, seen by root.
func healthy() *Observation {
	rule := func(priority uint32, iif string, proto uint8, table uint32) netwatch.Rule {
		return netwatch.Rule{Priority: priority, Action: unix.FR_ACT_TO_TBL, Table: table, Iif: iif, IPProto: proto, SuppressPrefix: -1}
	}
	ours := rule(0, "", 0, unix.RT_TABLE_LOCAL)
	ours.Mark, ours.Mask, ours.Protocol = 0x1000, 0x1000, ruleProtocol
	gateway := netip.MustParseAddr("169.254.73.1")
	const lo, loopback0, eth0, docker0 = 1, 2, 3, 4
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	n := Network{
		Mode: netwatch.MirroredHAL,
		Links: []netwatch.Link{
			{Name: "lo", Index: lo, Up: true},
			{Name: "loopback0", Index: loopback0, Up: true, RouteLocalnet: true},
			{Name: "eth0", Index: eth0, Up: true, RouteLocalnet: true},
			{Name: "docker0", Index: docker0, Up: true, Kind: "bridge"},
		},
		Prefixes: map[int][]netip.Prefix{lo: prefix("127.0.0.1/8"), eth0: prefix("192.168.1.5/24"), docker0: prefix("172.17.0.1/16")},
		Rules: []netwatch.Rule{
			rule(0, "loopback0", unix.IPPROTO_TCP, unix.RT_TABLE_LOCAL), rule(0, "loopback0", unix.IPPROTO_UDP, unix.RT_TABLE_LOCAL),
			rule(0, "eth0", unix.IPPROTO_TCP, unix.RT_TABLE_LOCAL), rule(0, "eth0", unix.IPPROTO_UDP, unix.RT_TABLE_LOCAL),
			ours,
			rule(1, "", unix.IPPROTO_TCP, 127), rule(1, "", unix.IPPROTO_UDP, 127),
			rule(1, "", unix.IPPROTO_TCP, 128), rule(1, "", unix.IPPROTO_UDP, 128),
			rule(2, "", 0, unix.RT_TABLE_LOCAL), rule(32766, "", 0, unix.RT_TABLE_MAIN), rule(32767, "", 0, unix.RT_TABLE_DEFAULT),
		},
		Routes: []netwatch.Route{
			{Table: 127, To: netip.MustParsePrefix("127.0.0.1/32"), Via: gateway, Link: loopback0, Type: unix.RTN_UNICAST},
			{Table: 128, To: netip.MustParsePrefix("192.168.1.5/32"), Via: gateway, Link: eth0, Type: unix.RTN_UNICAST},
			{Table: unix.RT_TABLE_LOCAL, To: netip.MustParsePrefix("127.0.0.0/8"), Link: lo, Type: unix.RTN_LOCAL},
			{Table: unix.RT_TABLE_LOCAL, To: netip.MustParsePrefix("192.168.1.5/32"), Link: eth0, Type: unix.RTN_LOCAL},
			{Table: unix.RT_TABLE_MAIN, To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.1.1"), Link: eth0, Type: unix.RTN_UNICAST},
		},
		Neighbours: []netwatch.Neighbour{{Link: loopback0, Addr: gateway, State: unix.NUD_PERMANENT}},
	}
	n.Paths = n.paths("loopback0")
	for i, p := range n.Paths {
		is := netwatch.RouteAnswer{Table: p.Rule.Table, Type: unix.RTN_UNICAST}
		if p.Rule.Table == unix.RT_TABLE_LOCAL {
			is.Type = unix.RTN_LOCAL
		}
		n.Paths[i].Is = is
	}
	return &Observation{
		Iface: "loopback0", Root: true, Systemd: true,
		Guest: windows.Guest{Release: "6.6.87.2-microsoft-standard-WSL2", WSL: true, Mode: "mirrored"},
		Net:   Seen[Network]{Value: n},
		Sysctls: Seen[map[string]Conf]{Value: map[string]Conf{
			"all": {}, "loopback0": {0, 1, 1}, "eth0": {2, 1, 1},
		}},
		Ruleset: Seen[Ruleset]{Value: Ruleset{
			Ours: nft.OurTable{Present: true, Owner: 7},
			WSL: []ruleset.WSLChain{
				{Family: "ip", Table: "filter", Name: "WSLOUTPUT", Rules: make([]ruleset.Rule, 1)}, {Family: "ip", Table: "nat", Name: "WSLPOSTROUTING", Rules: make([]ruleset.Rule, 2)},
				{Family: "ip6", Table: "filter", Name: "WSLOUTPUT", Rules: make([]ruleset.Rule, 1)}, {Family: "ip6", Table: "nat", Name: "WSLPOSTROUTING", Rules: make([]ruleset.Rule, 2)},
			},
			Published: []ruleset.Published{{
				Port: ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 8080}, Addr: netip.IPv4Unspecified(), To: netip.MustParseAddrPort("172.17.0.2:80"), Engine: "docker",
			}},
			Docker: true, PassesKnown: true,
		}},
		Block: Seen[ports.Block]{Value: ports.Block{
			Range: ports.Range{First: 44620, Last: 48715}, Windows: ports.Range{First: 44620, Last: 48715},
			Usable: 4096, FirstPass: 2048, Containers: true,
			Worst: ports.Load{Proto: "tcp", Destination: netip.MustParseAddrPort("192.0.2.1:443"), Used: 10, Of: 4096},
		}},
		Listeners: Seen[[]ports.Listener]{Value: []ports.Listener{{Proto: "tcp", Addr: netip.MustParseAddrPort("0.0.0.0:8080")}}},
		Status: Seen[status.Snapshot]{Value: status.Snapshot{
			State: status.Active, PID: 100, Interface: status.Interface{Name: "loopback0", Index: 2, Present: true},
			Table: status.Table{Installed: true},
			Ports: []status.Port{{Proto: "tcp", Port: 8080, Target: "172.17.0.2:80", Engine: "docker"}},
		}},
		Daemons: Seen[int]{Value: 1},
		Programs: Seen[[]Program]{Value: []Program{
			{100, "wslmirror", []string{"/usr/bin/wslmirror", "run"}, true, false}, {200, "dockerd", []string{"dockerd"}, true, false},
		}},
		Docker: Docker{Version: Seen[string]{Value: "29.1.3"}, Settings: Seen[DockerSettings]{Value: DockerSettings{UserlandProxy: true, Firewall: "iptables"}}},
	}
}

// run is one check.
func run(o *Observation, name string) Check {
	i := slices.IndexFunc(checks, func(c check) bool { return c.name == name })
	return checks[i].run(o)
}

func TestHealthy(t *testing.T) {
	r := Report{Checks: judge(healthy())}.count()
	for _, c := range r.Checks {
		if c.Verdict != OK && c.Verdict != NotApplicable {
			t.Errorf("%+v", c)
		}
	}
	if len(r.Checks) != len(checks) || r.Summary.OK+r.Summary.NotApplicable != len(checks) {
		t.Errorf("%+v", r.Summary)
	}
}

// Each check comes to each of its verdicts, and nothing but what it is about
// leads to a fault.
func TestChecks(t *testing.T) {
	type obs = *Observation
	setRuleset := func(fn func(*Ruleset)) func(obs) { return func(o obs) { fn(&o.Ruleset.Value) } }
	hide := func(o obs) { o.Net = Seen[Network]{Err: errHidden} }
	addr := func(o obs, link int) {
		n := o.Net.Value
		n.Prefixes[link] = append(n.Prefixes[link], netip.MustParsePrefix("192.168.1.6/24"))
	}
	user := func(o obs) { o.Ruleset.Err, o.Root, o.Block.Value.Windows = errHidden, false, ports.Range{} }
	both := func(fns ...func(obs)) func(obs) {
		return func(o obs) {
			for _, fn := range fns {
				fn(o)
			}
		}
	}
	noDaemon := both(func(o obs) {
		o.Status.Value, o.Daemons.Value = status.Snapshot{State: status.Stopped}, 0
		o.Programs.Value = nil
	},
		setRuleset(func(r *Ruleset) { r.Ours = nft.OurTable{} }))
	toWindows := func(active bool, reason string, ports ...string) func(obs) {
		return func(o obs) {
			o.Status.Value.Directions = []status.Direction{{Name: status.ContainersToWindows, Active: active, Reason: reason, Ports: ports}}
		}
	}
	noLAN := func(o obs) { o.Net.Value.Routes = slices.Delete(o.Net.Value.Routes, 1, 2) }
	mode := func(mode, asked string) func(obs) {
		return func(o obs) {
			o.Net.Value.Links, o.Guest.Mode, o.WSLConfig.Value.Mode = o.Net.Value.Links[:1], mode, asked
		}
	}
	lost := func(change func(obs)) func(obs) { // a chain, and perhaps what is needed to restore it
		return func(o obs) {
			o.Ruleset.Value.WSL[1].Rules, o.Block.Value.Windows = nil, ports.Range{}
			change(o)
		}
	}
	noNIC := func(o obs) { o.Net.Value.Rules = slices.Delete(o.Net.Value.Rules, 2, 4) }
	walks := func(list ...trace.Trace) func(obs) {
		http := ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 8080}
		return setRuleset(func(r *Ruleset) {
			r.Walks = []Walk{{trace.Question{Port: http, From: trace.Windows}, list}}
		})
	}
	fromContainer := func(t trace.Trace) func(obs) {
		return both(toWindows(true, "", "11434/tcp"), setRuleset(func(r *Ruleset) {
			q := trace.Question{Port: ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 11434}, From: trace.Container, Addr: netip.MustParseAddr("172.17.0.2"), Suppose: true}
			r.Walks = []Walk{{q, []trace.Trace{t}}}
		}))
	}
	drop := trace.Hop{Kind: trace.InChain, Table: "inet fw", Chain: "f", Hook: "forward", Sure: true}
	stopsAt := func(h trace.Hop, fix string) trace.Trace {
		h.Stops = true
		return trace.Trace{Verdict: trace.Stops, Why: "why", Fix: []string{fix}, Hops: []trace.Hop{h}}
	}
	vpn := setRuleset(func(r *Ruleset) { // redirects DNS
		r.Published = append(r.Published, ruleset.Published{
			Port: ruleset.Port{Proto: unix.IPPROTO_UDP, Number: 53}, Addr: ruleset.Localhost, To: netip.MustParseAddrPort("10.8.0.1:53"), Engine: "ip vpn dns",
		})
	})
	nat := func(o obs) { o.Net.Value.Links, o.Guest.Mode = o.Net.Value.Links[:1], "nat" }
	replugged := func(o obs) { // as WSL leaves its rules when loopback0 comes again
		tcp := o.Net.Value.Rules[5]
		o.Net.Value.Rules = append(slices.Delete(o.Net.Value.Rules, 2, 3), tcp)
	}
	consomme := func(wslinfo string) func(obs) {
		return func(o obs) {
			o.Net.Value.Mode, o.Guest.Mode = netwatch.Consomme, wslinfo
			if wslinfo == "" {
				o.Guest.ModeErr = errHidden
			}
		}
	}
	idle := setRuleset(func(r *Ruleset) { r.Published = nil })
	noDocker := setRuleset(func(r *Ruleset) { r.Docker = false })
	podman := func(version string, listen bool) func(obs) {
		return func(o obs) {
			o.Podman.Present, o.Podman.Version.Value, o.Podman.ForceListen.Value = true, version, listen
		}
	}
	ran := func(name string) func(obs) {
		return func(o obs) {
			o.Programs.Value = append(o.Programs.Value, Program{300, name, []string{name}, true, false})
		}
	}
	tooOld := func(o obs) {
		o.Guest.Release, o.Status.Value, o.Ruleset.Value.Ours = "5.10.102.1-microsoft-standard-WSL2", status.Snapshot{State: status.Stopped}, nft.OurTable{}
		o.Service.Value.Trouble, o.Daemons.Value = "the service has failed", 0
	}
	lacks := func(o obs) {
		fix := []string{"sudo modprobe -a nft_ct"}
		o.Status.Value.Degraded = []status.Lack{
			{Feature: "localhost from Linux", Reason: "this kernel lacks nft_ct", Fix: fix}, {Feature: "closed ports", Reason: "this kernel lacks nft_ct", Fix: fix},
		}
	}
	failed := func(o obs) { o.Service.Value.Trouble = "the service has failed: no such flag" }
	badOptions := func(o obs) { o.Service.Value.BadOptions = true }
	tests := []struct {
		check  string
		change func(obs)
		want   Verdict
		says   string // in Seen or Do
	}{
		{"wsl", nat, OK, "mode nat"},
		{"wsl", mode("none", ""), Warning, "no network"},
		{"wsl", mode("none", "none"), Warning, "no network"},
		{"wsl", mode("none", "mirrored"), Fault, "asks for mirrored"},
		{"wsl", func(o obs) { mode("none", "mirrored")(o); o.WSLConfig.Err = errHidden }, Warning, "wsl.exe --shutdown"},
		{"wsl", mode("bridged", ""), OK, "mode bridged"},
		{"wsl", func(o obs) { nat(o); o.Guest.ModeErr = errHidden }, Unknown, "hidden"},
		{"wsl", func(o obs) { o.Guest.WSL, o.Guest.Release = false, "6.1.0-custom" }, Unknown, "6.1.0-custom"},
		{"wsl", func(o obs) { nat(o); o.Guest.WSL, o.Guest.Release = false, "6.1.0" }, NotApplicable, "not WSL"},
		{"loopback0", nat, NotApplicable, "not shared"},
		{"loopback0", func(o obs) { nat(o); o.Guest.Mode = "mirrored" }, Fault, "no loopback0"},
		{"loopback0", func(o obs) { o.Net.Value.Links[1].Up = false }, Fault, "is down"},
		{"loopback0", hide, Unknown, "hidden"},
		{"table-127", func(o obs) { o.Net.Value.Routes = o.Net.Value.Routes[1:] }, Fault, "no route"},
		{"table-127", func(o obs) { o.Net.Value.Routes[0].Link = 3 }, Fault, "through eth0"},
		{"table-127", hide, Unknown, "hidden"},
		{"table-127", func(o obs) { o.Net.Value.Links[1].Up = false }, NotApplicable, "not up"},
		{"gateway", func(o obs) { o.Net.Value.Neighbours = nil }, Fault, "169.254.73.1 lladdr"},
		{"gateway", func(o obs) { o.Net.Value.Neighbours[0].State = unix.NUD_REACHABLE }, Fault, "no permanent"},
		{"gateway", func(o obs) { o.Net.Value.Neighbours[0].Link = 3 }, Fault, "no permanent"},
		{"gateway", hide, Unknown, "hidden"},
		{"gateway", func(o obs) { o.Net.Value.Routes = nil }, NotApplicable, "no gateway"},
		{"table-128", noLAN, OK, "hostAddressLoopback=true"},
		{"table-128", both(noLAN, func(o obs) { o.WSLConfig.Err = errHidden }), OK, "only through 127.0.0.1"},
		{"table-128", both(noLAN, func(o obs) { o.WSLConfig.Value.HostLoopback = true }), OK, "WSL has not applied that yet"},
		{"table-128", func(o obs) { o.Net.Value.Routes[1].To = netip.MustParsePrefix("192.168.1.6/32") }, OK, "it is empty"},
		{"table-128", func(o obs) { addr(o, 3) }, Warning, "none to 192.168.1.6 on eth0"},
		{"table-128", func(o obs) { addr(o, 7) }, OK, "192.168.1.5 on eth0"},
		{"table-128", func(o obs) { o.Net.Value.Prefixes = nil }, NotApplicable, "eth0 has no address"},
		{"table-128", hide, Unknown, "hidden"},
		{"ip-rules", hide, Unknown, "hidden"},
		{"rp-filter", func(o obs) { o.Sysctls.Value["all"] = Conf{RPFilter: 1} }, Fault, "strict on loopback0"},
		{"rp-filter", func(o obs) { o.Sysctls.Value["all"] = Conf{RPFilter: 1} }, Fault, "/etc/sysctl.d /run/sysctl.d /usr/lib/sysctl.d /etc/ufw/sysctl.conf"},
		{"rp-filter", func(o obs) { o.Sysctls.Value["all"] = Conf{RPFilter: 2} }, OK, ""},
		{"rp-filter", func(o obs) { o.Sysctls.Value["eth0"] = Conf{RPFilter: 1} }, Warning, "eth0.rp_filter=0"},
		{"rp-filter", func(o obs) { o.Sysctls.Err = errHidden }, Unknown, "hidden"},
		{"accept-local", func(o obs) { o.Sysctls.Value["loopback0"] = Conf{0, 0, 1} }, Warning, "accept_local=1"},
		{"accept-local", func(o obs) { o.Sysctls.Value["loopback0"] = Conf{}; o.Sysctls.Value["all"] = Conf{0, 1, 0} }, OK, ""},
		{"route-localnet", func(o obs) { o.Sysctls.Value["loopback0"] = Conf{0, 1, 0} }, Fault, "route_localnet=1"},
		{"route-localnet", func(o obs) { delete(o.Sysctls.Value, "loopback0") }, Unknown, "does not have"},
		{"guard", func(o obs) { o.Net.Value.Links[3].RouteLocalnet = true }, Warning, "does not guard"},
		{"guard", both(noDaemon, func(o obs) { o.Net.Value.Links[3].RouteLocalnet = true }), Warning, "no wslmirror guards"},
		{"guard", func(o obs) {
			o.Net.Value.Links[3].RouteLocalnet = true
			o.Ruleset.Value.Ours.Table.Sets = []ruleset.Set{{Name: "guarded", KeyLen: 16, Elements: []ruleset.Element{{Key: "docker0\x00\x00"}}}}
		}, OK, "guards the links"},
		{"guard", both(user, func(o obs) { o.Net.Value.Links[3].RouteLocalnet = true }), OK, "active wslmirror guards"},
		{"guard", func(o obs) { o.Sysctls.Value["all"] = Conf{RouteLocalnet: 1} }, Warning, "is on for docker0"},
		{"wsl-chains", setRuleset(func(r *Ruleset) { r.WSL[1].Rules = nil }), Fault, `oif "eth0" tcp sport 1-65535 meta mark != 0x00000001 counter masquerade to :44620-48715`},
		{"wsl-chains", setRuleset(func(r *Ruleset) { r.WSL[3].Rules = nil }), Warning, "ip6 nat"},
		{"wsl-chains", setRuleset(func(r *Ruleset) { r.WSL[1].Rules = []ruleset.Rule{{Comment: "restored by wslmirror"}} }), OK, "; restored by wslmirror: ip nat WSLPOSTROUTING"},
		{"wsl-chains", lost(func(o obs) {}), Fault, "masquerade to :44620-48715"},
		{"wsl-chains", lost(func(o obs) { o.Block.Err = errHidden }), Fault, "wsl.exe --shutdown"},
		{"wsl-chains", lost(func(o obs) { o.Block.Value.Range = ports.Range{First: 32768, Last: 60999} }), Fault, "wsl.exe --shutdown"},
		{"wsl-chains", lost(func(o obs) { o.Block.Value.Reserved = []ports.Range{{First: 44620, Last: 44700}} }), Fault, "wsl.exe --shutdown"},
		{"wsl-chains", lost(noNIC), OK, "ip6 filter WSLOUTPUT"}, // has no rule to lose
		{"wsl-chains", func(o obs) { o.Ruleset.Value.WSL[0].Rules = nil; noNIC(o) }, Fault, "empty: ip filter WSLOUTPUT\n"},
		{"wsl-chains", lost(hide), Fault, "wsl.exe --shutdown"},
		{"wsl-chains", lost(podman("5.4.2", false)), Fault, "sudo podman network reload --all"},
		{"wsl-chains", user, Unknown, "hidden"},
		{"wsl-chains", consomme(""), NotApplicable, "consomme"},
		{"wsl-chains", consomme("mirrored"), NotApplicable, "consomme"}, // wslinfo lies
		{"port-range", consomme(""), NotApplicable, "consomme"},
		{"table-128", consomme("nat"), NotApplicable, "consomme"},
		{"wsl", consomme("mirrored"), OK, "networking mode consomme"},
		{"wsl", func(o obs) { nat(o); o.Guest.Mode = "consomme" }, OK, "there is no loopback0"},
		{"port-tracker", func(o obs) { o.Bind.Err = unix.ENOSYS }, Fault, "wsl.exe --shutdown"},
		{"nics", func(o obs) { o.Net.Value.Links[2].Up = false; delete(o.Net.Value.Prefixes, 3) }, Warning, "eth0: down and without addresses"},
		{"gist-chain", setRuleset(func(r *Ruleset) { r.Gist = true }), Warning, "nft delete chain ip nat WSLPREROUTING"},
		{"gist-chain", user, Unknown, "hidden"},
		{"nics", func(o obs) { o.Net.Value.Links[2].Up = false }, OK, "eth0"},
		{"nics", func(o obs) { o.Net.Value.Links = o.Net.Value.Links[:2]; noNIC(o) }, NotApplicable, "no link"},
		{"unsent-ports", func(o obs) {
			o.Unsent.Value = []ports.Listener{{Proto: "udp", Addr: netip.MustParseAddrPort("0.0.0.0:53")}}
		}, Warning, "sudo ip rule add pref 0 ipproto udp dport 53 lookup local"},
		{"unsent-ports", func(o obs) { o.Unsent.Err = errHidden }, Unknown, "hidden"},
		{"unsent-ports", consomme(""), NotApplicable, "consomme"},
		{"mptcp", func(o obs) {
			o.Listeners.Value = append(o.Listeners.Value, ports.Listener{Proto: "tcp", Addr: netip.MustParseAddrPort("0.0.0.0:8300"), MPTCP: true})
		}, Warning, "0.0.0.0:8300"},
		{"mptcp", func(o obs) { o.Listeners.Err = errHidden }, Unknown, "hidden"},
		{"ip-rules", func(o obs) { o.Net.Value.Rules = append(o.Net.Value.Rules, o.Net.Value.Rules[5]) }, Warning, "sudo ip rule del pref 1 from all ipproto tcp lookup 127"},
		{"ip-rules", replugged, Warning, "rules of WSL are missing: 0: from all iif eth0 ipproto tcp lookup local; duplicate rules: 1: from all ipproto tcp lookup 127"},
		{"ip-rules", replugged, Warning, "sudo ip rule add pref 0 from all iif eth0 ipproto tcp lookup local\nsudo ip rule del pref 1 from all ipproto tcp lookup 127"},
		{"ip-rules", func(o obs) { o.Net.Value.Rules = slices.Delete(o.Net.Value.Rules, 3, 4) }, Warning, "sudo ip rule add pref 0 from all iif eth0 ipproto udp lookup local"},
		{"ip-rules", func(o obs) { o.Net.Value.Rules = slices.Delete(o.Net.Value.Rules, 2, 4) }, OK, "10 rules"}, // eth0 is not mirrored
		{"ip-rules", func(o obs) { // the link has gone, and its rule has stayed
			o.Net.Value.Rules = slices.Delete(o.Net.Value.Rules, 3, 4)
			o.Net.Value.Links = slices.Delete(o.Net.Value.Links, 2, 3)
		}, OK, "11 rules"},
		{"podman", func(o obs) { podman("6.1.1", false)(o); o.Guest.Release = "6.18.1-microsoft" }, OK, "Windows sees"},
		{"port-range", func(o obs) { o.Block.Value.First = 32768 }, Fault, `"44620 48715"`},
		{"port-range", func(o obs) { o.Block.Value.First = 32768 }, Fault, "/etc/sysctl.conf /etc/sysctl.d /run/sysctl.d /usr/lib/sysctl.d\n"},
		{"port-range", func(o obs) { o.Block.Value.First = 32768 }, Fault, "which is safe\n" + restart},
		{"port-range", user, Unknown, "hidden"},
		{"port-range", both(user, func(o obs) { o.Block.Value.First = 32768 }), Warning, "15948 ports"},
		{"port-range", func(o obs) { o.Block.Value.Windows = ports.Range{} }, NotApplicable, "is gone"},
		{"port-range", both(user, func(o obs) { o.Block.Value.Last = 48716 }), Unknown, "44620-48716"}, // WSL#12228
		{"port-range", func(o obs) { o.Block.Value.Windows, o.Block.Value.First = ports.Range{}, 32768 }, Warning, "wsl.exe --shutdown"},
		{"port-headroom", func(o obs) { o.Block.Value.Worst.Used = 3300 }, Warning, "3300 of 4096"},
		{"port-headroom", func(o obs) { o.Block.Value.Worst.Used = 4096 }, Fault, "to 192.0.2.1:443"},
		{"port-headroom", func(o obs) { o.Block.Value.Usable, o.Block.Value.Worst = 0, ports.Load{} }, Fault, "no port of 44620-48715 can be used"},
		{"port-headroom", func(o obs) { o.Block = Seen[ports.Block]{Err: errHidden} }, Unknown, "hidden"},
		{"port-headroom", func(o obs) { o.Block.Value.Containers, o.Block.Value.Unseen = false, errHidden }, OK, "not counting connections of containers (hidden)"},
		{"directions", walks(trace.Trace{Verdict: trace.Unknown, Why: "it is dark"}), Unknown, "not certain: Windows to 8080/tcp (it is dark)\nsudo wslmirror trace 8080 --from windows"},
		{"directions", walks(stopsAt(trace.Hop{Kind: trace.Routed, Rule: "5270: from all lookup 52"}, "sudo one")), Fault, "Windows to 8080/tcp (why, because of the ip rule 5270: from all lookup 52)\nsudo one"},
		{"directions", walks(stopsAt(trace.Hop{Kind: trace.Routed}, "sudo wslmirror doctor")), Fault, "\nsudo wslmirror trace 8080"},
		{"directions", walks(stopsAt(trace.Hop{Kind: trace.InChain, Table: "ip x", Chain: "y"}, "sudo nft insert")), NotApplicable, "see output"},
		{"directions", both(noDaemon, walks(stopsAt(trace.Hop{Kind: trace.InsideHost, Verdict: "martian"}, "sudo x"))), NotApplicable, "see service"},
		{"directions", setRuleset(func(r *Ruleset) { r.Unfollowed = 7 }), Unknown, "7 more packets were not followed"},
		{"directions", walks(trace.Trace{Verdict: trace.Reaches}), OK, "Linux's ports (1)"},
		{"directions", user, Unknown, "hidden"},
		{"output", setRuleset(func(r *Ruleset) { r.Unfollowed = 7 }), NotApplicable, "see directions"},
		{"forward", user, NotApplicable, "see input"},
		{"output", func(o obs) { o.Legacy.Value = []string{"filter"} }, NotApplicable, "see input"},
		{"directions", walks(stopsAt(trace.Hop{Kind: trace.InsideHost, Verdict: "none"}, "# publish that port instead")), OK, "packets pass"},
		{"published-ports", walks(stopsAt(trace.Hop{Kind: trace.InsideHost, Verdict: "none"}, "# publish that port instead")), Warning, "no program answers: Windows to 8080/tcp (why)\n# publish that port instead"},
		{"input", func(o obs) { o.Legacy.Value = []string{"filter"} }, Unknown, "not certain"},
		{"input", func(o obs) { o.Listeners = Seen[[]ports.Listener]{Err: errHidden} }, Unknown, "hidden"},
		{"input", user, Unknown, "hidden"},
		{"kernel", func(obs) {}, OK, "supports everything"},
		{"kernel", func(o obs) { o.Status.Value.State = status.Waiting }, OK, "new enough"},
		{"kernel", tooOld, Fault, "this one is Linux 5.10.102.1"},
		{"kernel", func(o obs) { tooOld(o); nat(o) }, NotApplicable, "not shared"},
		{"kernel", lacks, Warning, "it does not support: localhost from Linux, closed ports"},
		{"kernel", lacks, Warning, "sudo modprobe -a nft_ct"},
		{"service", lacks, OK, "active"},
		{"service", tooOld, NotApplicable, "cannot run on this kernel"},
		{"table", func(o obs) { o.Ruleset.Value.Ours, o.Status.Value.State = nft.OurTable{}, status.Error }, NotApplicable, "could not install"},
		{"service", noDaemon, Fault, "systemctl enable --now wslmirror"},
		{"service", both(noDaemon, func(o obs) { o.Systemd = false }), Fault, "sudo wslmirror run"},
		{"service", both(noDaemon, func(o obs) { o.Daemons.Value = 1; user(o) }), OK, "active in another distribution"},
		{"service", both(noDaemon, failed), Fault, "has failed: no such flag\njournalctl -u wslmirror -e\nsudo systemctl restart wslmirror"},
		{"service", both(noDaemon, failed, badOptions), Fault, "has failed: no such flag\n# correct WSLMIRROR_OPTS in /etc/default/wslmirror, and then\nsudo systemctl restart wslmirror"},
		{"service", both(noDaemon, idle, failed, badOptions), Fault, "WSLMIRROR_OPTS"},
		{"service", both(noDaemon, failed, badOptions, func(o obs) { o.Daemons.Value = 1; user(o) }), Warning, "wslmirror is active in another distribution\n# correct WSLMIRROR_OPTS"},
		{"service", failed, OK, "active"}, // by hand, or a moment ago
		{"service", both(noDaemon, func(o obs) { o.Service.Err = errSlow }), Fault, "systemctl enable --now wslmirror"},
		{"service", func(o obs) { o.Status.Value.State, o.Status.Value.Reason = status.Error, "broken" }, Fault, "broken"},
		{"service", func(o obs) { o.Status.Value.State = status.Standby }, OK, "another distribution"},
		{"service", func(o obs) { o.Status.Value.State = status.Waiting }, Warning, "which exists"},
		{"service", func(o obs) { o.Status.Value.State, o.Status.Value.Interface.Name = status.Waiting, "loopbakc0" }, Fault, "it waits for loopbakc0; WSL's link is loopback0\n# correct --interface in /etc/default/wslmirror"},
		{"service", both(noDaemon, idle), Warning, "no container publishes a port yet"},
		{"service", both(noDaemon, idle, podman("5.4.2", false)), Fault, "enable --now"},
		{"service", both(noDaemon, idle, ran("dockerd")), Fault, "enable --now"},
		{"service", both(noDaemon, idle, func(o obs) { o.Programs.Err = errHidden }), Fault, "enable --now"},
		{"service", both(noDaemon, idle, user), Fault, "enable --now"},
		{"service", func(o obs) { o.Status.Err = errHidden }, Unknown, "hidden"},
		{"service", both(noDaemon, nat), NotApplicable, ""},
		{"table", setRuleset(func(r *Ruleset) { r.Ours = nft.OurTable{} }), Fault, "says that it is active"},
		{"table", setRuleset(func(r *Ruleset) { r.Ours.Owner = 0 }), Fault, "no daemon owns"},
		{"table", both(setRuleset(func(r *Ruleset) { r.Ours.Owner = 0 }), failed, badOptions), Fault, "delete table ip wslmirror\n# correct WSLMIRROR_OPTS"},
		{"table", noDaemon, Warning, "wslmirror cleanup"},
		{"table", both(noDaemon, func(o obs) { o.Net.Value.Rules = slices.Delete(o.Net.Value.Rules, 4, 5) }), NotApplicable, ""},
		{"table", user, OK, "according to the daemon"},
		{"table", both(noDaemon, user), Unknown, "hidden"},
		{"instances", func(o obs) {
			o.Programs.Value = append([]Program{{90, "wslmirror", []string{"wslmirror", "run"}, true, false}}, o.Programs.Value...)
		}, Fault, "sudo kill 90"},
		{"instances", func(o obs) {
			o.Programs.Value = append(o.Programs.Value, Program{110, "wslmirror", []string{"wslmirror", "run"}, false, false})
		}, OK, "one"},
		{"instances", func(o obs) {
			o.Programs.Value, o.Daemons.Value = append(o.Programs.Value, Program{110, "wslmirror", []string{"wslmirror", "run"}, false, false}), 2
		}, Fault, "sudo kill 110"},
		{"instances", func(o obs) {
			o.Programs.Value = append(o.Programs.Value, Program{110, "wslmirror", []string{"wslmirror", "run"}, true, true})
		}, Fault, "sudo kill 100"},
		{"instances", func(o obs) { o.Daemons.Value = 3 }, OK, "2 in other distributions"},
		{"instances", noDaemon, NotApplicable, ""},
		{"instances", func(o obs) { o.Programs.Err = errHidden }, Unknown, "hidden"},
		{"published-ports", func(o obs) { o.Listeners.Value[0].Bound = true }, OK, "published ports: 1"}, // seen where WSL sees it
		{"published-ports", func(o obs) { o.Listeners.Value[0].MPTCP = true }, Fault, "8080/tcp"},
		{"published-ports", func(o obs) {
			o.Listeners.Value[0].Addr, o.Listeners.Value[0].Holder = netip.MustParseAddrPort("[::1]:8080"), true
		}, OK, "each with a socket, 1 of them held by wslmirror"},
		{"published-ports", both(setRuleset(func(r *Ruleset) { r.Published[0].EngineServed = true }), func(o obs) { o.Listeners.Value, o.Hold.Err = nil, fs.ErrNotExist }), Fault, "\nsudo systemctl start wslmirror-hold "},
		{"published-ports", func(o obs) {
			o.Listeners.Value, o.Hold.Value.Refused = nil, []status.Refusal{{Port: "8080/tcp", Windows: true, Reason: "refused by Windows"}}
		}, Fault, "8080/tcp (docker); wslmirror cannot hold 8080/tcp: refused by Windows\nsocat"},
		{"published-ports", func(o obs) { o.Listeners.Value = nil }, Fault, "socat TCP-LISTEN:8080,fork,reuseaddr TCP:172.17.0.2:80"},
		{"published-ports", func(o obs) { o.Listeners.Value[0].Addr = netip.MustParseAddrPort("192.168.1.5:8080") }, Fault, "8080/tcp"},
		{"published-ports", func(o obs) { o.Listeners.Value[0].Addr = netip.MustParseAddrPort("[::]:8080") }, OK, ""},
		{"published-ports", func(o obs) { o.Listeners.Value[0].Proto = "udp" }, Fault, "8080/tcp"},
		{"published-ports", vpn, Warning, "not reachable from Windows: 53/udp (ip vpn dns)\n#"},
		{"published-ports", both(vpn, func(o obs) { o.Listeners.Value = nil }), Fault, "no listener that Windows sees: 8080/tcp (docker)\nsocat"},
		{"published-ports", user, OK, "published ports: 1"},
		{"published-ports", func(o obs) { o.Listeners.Err = errHidden }, Unknown, "hidden"},
		{"published-ports", func(o obs) { o.Listeners.Err = sockdiag.ErrNoUDP }, Unknown, "udp_diag"},
		{"published-ports", func(o obs) { o.Listeners = Seen[[]ports.Listener]{Err: sockdiag.ErrNoUDP} }, Fault, "8080/tcp"},
		{"published-ports", both(noDaemon, user), Unknown, "hidden"},
		{"published-ports", setRuleset(func(r *Ruleset) { r.Published = nil }), NotApplicable, ""},
		{"docker", func(o obs) { o.Docker.Version.Err = errHidden }, OK, "version unknown"},
		{"docker", func(o obs) { o.Docker.Settings.Err = errHidden }, Unknown, "settings unknown"},
		{"docker", setRuleset(func(r *Ruleset) { r.Docker = false }), Warning, "not in the kernel"},
		{"docker", both(noDocker, func(o obs) { o.Legacy.Value = []string{"mangle"} }), Warning, "not in the kernel"},
		{"docker", both(noDocker, func(o obs) { o.Legacy.Value = []string{"filter", "nat"} }), Unknown, "in iptables-legacy, which wslmirror does not check"},
		{"docker", both(noDocker, func(o obs) { o.Legacy.Err = errHidden }), Unknown, "or gone: could not read"},
		{"docker", both(noDocker, func(o obs) { o.Legacy.Value, o.Docker.Settings.Value.Firewall = []string{"nat"}, "nftables" }), Warning, "not in the kernel"},
		{"docker", func(o obs) { o.Docker.Settings.Value = DockerSettings{false, "none"} }, Warning, "daemon.json"},
		{"docker", func(o obs) { o.Programs.Value = nil }, NotApplicable, ""},
		{"docker", func(o obs) { o.Docker.Desktop = true }, NotApplicable, "Desktop"},
		{"docker-loopback0", setRuleset(func(r *Ruleset) { r.Missing = make([]nft.ForeignRule, 1) }), Fault, "restart docker"},
		{"docker-loopback0", both(noDaemon, setRuleset(func(r *Ruleset) { r.Missing = make([]nft.ForeignRule, 1) })), Warning, "enable --now wslmirror"},
		{"docker-loopback0", setRuleset(func(r *Ruleset) { r.Present = make([]nft.ForeignRule, 2) }), OK, "for 2 ports"},
		{"docker-loopback0", setRuleset(func(r *Ruleset) { r.Passes = true }), OK, "Docker itself allows"},
		{"docker-loopback0", user, Unknown, "hidden"},
		{"docker-loopback0", both(user, func(o obs) { o.Programs.Value = nil }), NotApplicable, ""},
		{"podman", podman("5.4.2", false), OK, "5.4.2"},
		{"podman", podman("6.1.1", true), OK, "force_port_listen"},
		{"podman", podman("6.1.1", false), Warning, "containers.conf.d/wslmirror.conf"},
		{"podman", podman("6.0.2", false), Warning, "update Podman"},
		{"podman", func(o obs) { o.Podman.Present, o.Podman.Version.Err = true, errHidden }, Unknown, "hidden"},
		{"iptables-legacy", func(o obs) { o.Legacy.Value = []string{"filter", "nat"} }, Warning, "filter, nat"},
		{"iptables-legacy", func(o obs) { o.Legacy.Err = errHidden }, Unknown, "hidden"},
		{"ufw", func(o obs) {}, NotApplicable, "off, or not installed"},
		{"ufw", both(user, func(o obs) { o.UFW = true }), Unknown, "hidden"},
		{"ufw", func(o obs) { o.UFW, o.Legacy.Value = true, []string{"filter"} }, Unknown, "iptables-legacy"},
		{"firewalld", setRuleset(func(r *Ruleset) { r.Firewalld = true }), OK, "allows loopback0"},
		{"firewalld", ran("firewalld"), Unknown, "its table is missing"},
		{"firewalld", both(user, ran("firewalld")), Unknown, "hidden"},
		{"networkmanager", both(ran("NetworkManager"), func(o obs) { o.Managed.Value = true }), Warning, `unmanaged-devices+=interface-name:loopback0;interface-name:eth*\n' | sudo tee /etc/NetworkManager/conf.d/wslmirror.conf`},
		{"networkmanager", both(ran("NetworkManager"), func(o obs) {}), OK, ""},
		{"networkmanager", both(ran("NetworkManager"), func(o obs) { o.Managed.Err = errHidden }), Unknown, "hidden"},
		{"container-to-windows", func(o obs) {}, OK, `WSLMIRROR_OPTS="--to-windows 11434"`},
		{"container-to-windows", consomme(""), OK, `WSLMIRROR_OPTS="--to-windows 11434"`},
		{"container-to-windows", toWindows(true, "", "11434/tcp", "53/udp"), OK, "reach 11434/tcp, 53/udp on Windows' 127.0.0.1"},
		{"container-to-windows", toWindows(true, "Linux itself serves 80/tcp", "53/udp"), OK, "Linux itself serves 80/tcp"},
		{"container-to-windows", fromContainer(trace.Trace{Verdict: trace.Reaches}), OK, "reach 11434/tcp"},
		{"container-to-windows", fromContainer(stopsAt(drop, "")), NotApplicable, "see forward"},
		{"forward", fromContainer(stopsAt(drop, "sudo nft insert")), Fault, "containers to Windows (why)"},
		{"forward", fromContainer(trace.Trace{Verdict: trace.Unknown, Hops: []trace.Hop{{Kind: trace.InChain, Hook: "forward"}}}), Unknown, "trace 11434 --from container:172.17.0.2"},
		{"container-to-windows", toWindows(false, "the block is gone"), Warning, "should reach Windows' 127.0.0.1, but do not: the block is gone"},
		{"container-to-windows", toWindows(false, status.NoPorts), OK, "allow single ports"},
		{"container-to-windows", func(o obs) { o.Status.Err = errHidden }, Unknown, "hidden"},
		{"container-to-windows", func(o obs) { o.Programs.Value, o.Ruleset.Value.Published = nil, nil }, NotApplicable, ""},
	}
	for _, test := range tests {
		o := healthy()
		test.change(o)
		c := run(o, test.check)
		if c.Verdict != test.want || !strings.Contains(c.Seen+"\n"+c.Do, test.says) {
			t.Errorf("want %s with %q: %+v", test.want, test.says, c)
		}
		if (c.Verdict == Fault || c.Verdict == Warning) && c.Do == "" {
			t.Errorf("does not say what to do: %+v", c)
		}
		if c.Verdict == Fault {
			for _, other := range judge(o) {
				if other.Verdict == Fault && other.Name != test.check && test.check != "service" {
					t.Errorf("%s leads to a fault of %s: %+v", test.check, other.Name, other)
				}
			}
		}
	}
}

// What hangs is left behind.
func TestLookEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s := &survey{ctx: ctx}
		var hangs, fails, seen Seen[int]
		end := make(chan struct{})
		defer close(end)
		look(s, &hangs, func() (int, error) { <-end; return 0, nil })
		look(s, &fails, func() (int, error) { return 0, errHidden })
		look(s, &seen, func() (int, error) { return 7, nil })
		s.Wait()
		if hangs.Err != errSlow || fails.Err != errHidden || seen != (Seen[int]{Value: 7}) {
			t.Errorf("%+v, %+v, %+v", hangs, fails, seen)
		}
	})
}

// Bound sockets show since Linux 6.8.
func TestShowsBound(t *testing.T) {
	for release, want := range map[string]bool{
		"6.7.12": false, "6.8.0": true, "6.18.44-wsl": true, "7.0.1": true, "5.15.153.1-microsoft-standard-WSL2": false, "?": false,
	} {
		if got := showsBound(release); got != want {
			t.Errorf("%s: %v", release, got)
		}
	}
}
