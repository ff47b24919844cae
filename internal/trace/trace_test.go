package trace

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

const (
	lo = iota + 1
	loopback0
	eth0
	docker0
)

var (
	web  = netip.MustParseAddr("172.17.0.2")
	http = ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 8080}
)

// listens is a socket of a program.
func listens(proto, at string) ports.Listener {
	return ports.Listener{Proto: proto, Addr: netip.MustParseAddrPort(at), Program: "server", PID: 7}
}

// world is a healthy machine in mirrored mode, with a server on 9000, a container whose
// port 80 is published on 8080 by a proxy, and no rule that does anything.
func world() *Observation {
	rule := func(priority, table uint32, iif string) netwatch.Rule {
		return netwatch.Rule{Priority: priority, Action: unix.FR_ACT_TO_TBL, Table: table, Iif: iif, IPProto: unix.IPPROTO_TCP, SuppressPrefix: -1}
	}
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	o := &Observation{
		Link: "loopback0",
		Links: []netwatch.Link{
			{Name: "lo", Index: lo},
			{Name: "loopback0", Index: loopback0, RouteLocalnet: true, Forwarding: true},
			{Name: "eth0", Index: eth0, RouteLocalnet: true, Forwarding: true},
			{Name: "docker0", Index: docker0, Kind: "bridge", RouteLocalnet: true, Forwarding: true},
		},
		Prefixes:  map[int][]netip.Prefix{lo: prefix("127.0.0.1/8"), eth0: prefix("192.0.2.2/24"), docker0: prefix("172.17.0.1/16")},
		Rules:     []netwatch.Rule{rule(0, unix.RT_TABLE_LOCAL, "loopback0"), rule(1, netwatch.LoopbackTable, "")},
		Listeners: []ports.Listener{listens("tcp", "0.0.0.0:8080"), listens("udp", "127.0.0.1:8080"), listens("tcp", "127.0.0.1:9000")},
		Published: []ruleset.Published{{Port: http, Addr: netip.IPv4Unspecified(), To: netip.AddrPortFrom(web, 80)}},
		Inside:    func(netip.Addr) ([]ports.Listener, error) { return []ports.Listener{listens("tcp", "0.0.0.0:80")}, nil },
		Follow:    new(ruleset.Ruleset).Follow,
		Served:    true,
	}
	o.Route = func(q netwatch.RouteQuery) (netwatch.RouteAnswer, error) {
		local := netwatch.RouteAnswer{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Oif: lo, Src: q.Dst}
		switch {
		case q.Dst == ruleset.Localhost && (q.Iif == loopback0 || q.Iif == docker0 && q.Mark != 0):
			return local, nil
		case q.Dst == ruleset.Localhost:
			return netwatch.RouteAnswer{Table: netwatch.LoopbackTable, Type: unix.RTN_UNICAST, Oif: loopback0, Src: ruleset.Localhost}, nil
		case o.local(q.Dst):
			return local, nil
		case o.Prefixes[docker0][0].Contains(q.Dst):
			return netwatch.RouteAnswer{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Oif: docker0, Src: o.Prefixes[docker0][0].Addr()}, nil
		}
		return netwatch.RouteAnswer{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Oif: eth0, Src: netip.MustParseAddr("192.0.2.2")}, nil
	}
	return o
}

// at has a chain at a hook do something to the packets that some choose.
func at(o *Observation, hook *nftables.ChainHook, step ruleset.Step, some func(ruleset.Packet, ruleset.Single) bool) {
	follow := o.Follow
	o.Follow = func(p ruleset.Packet, one ruleset.Single) ([]ruleset.Step, ruleset.Packet, ruleset.Single) {
		if p.Hook != *hook || some != nil && !some(p, one) || one.Pass != nil && one.Pass(step) {
			return follow(p, one)
		}
		if step.Sure && step.Does == ruleset.Translates {
			one.Flow.To, one.Flow.DstDone = step.To, true
		}
		if step.Sure && step.Does == ruleset.Masquerades {
			one.Flow.From, one.Flow.SrcDone = step.To.Addr(), true
		}
		steps, after, end := follow(p, one)
		return append([]ruleset.Step{step}, steps...), after, end
	}
}

func TestAsk(t *testing.T) {
	tcp := func(n uint16) ruleset.Port { return ruleset.Port{Proto: unix.IPPROTO_TCP, Number: n} }
	udp := func(n uint16) ruleset.Port { return ruleset.Port{Proto: unix.IPPROTO_UDP, Number: n} }
	drop, may := ruleset.Step{Does: ruleset.Drops, Sure: true}, ruleset.Step{Does: ruleset.Drops}
	dnat := ruleset.Step{Does: ruleset.Translates, To: netip.AddrPortFrom(web, 80), Sure: true}
	masquerade := ruleset.Step{Does: ruleset.Masquerades, To: netip.MustParseAddrPort("172.17.0.1:80"), Sure: true}
	tests := map[string]struct {
		change  func(*Observation)
		ask     Question
		verdict Verdict
		why     string
		do      string // the first command
	}{
		"Windows":              {nil, Question{Port: tcp(9000), From: Windows}, Reaches, "answered by server (7)", ""},
		"Linux":                {nil, Question{Port: tcp(9000), From: Linux}, Reaches, "answered by server (7)", ""},
		"Windows, published":   {nil, Question{Port: http, From: Windows}, Reaches, "answered by server (7) on 172.17.0.2:80", ""},
		"Linux, published":     {nil, Question{Port: http, From: Linux}, Reaches, "answered by server (7) on 172.17.0.2:80", ""},
		"LAN":                  {nil, Question{Port: http, From: LAN}, Reaches, "172.17.0.2:80", ""},
		"container":            {nil, Question{Port: http, From: Container, Addr: netip.MustParseAddr("172.17.0.3")}, Reaches, "172.17.0.2:80", ""},
		"container, nowhere":   {nil, Question{Port: http, From: Container, Addr: netip.MustParseAddr("10.0.0.3")}, Stops, "no bridge leads to 10.0.0.3", ""},
		"udp":                  {nil, Question{Port: udp(8080), From: Windows}, Reaches, "server (7)", ""},
		"no link":              {func(o *Observation) { o.Links = o.Links[2:] }, Question{Port: http, From: Windows}, Stops, "loopback0 does not exist", ""},
		"no LAN":               {func(o *Observation) { delete(o.Prefixes, eth0) }, Question{Port: http, From: LAN}, Stops, "no link to the LAN", ""},
		"nobody, Windows":      {nil, Question{Port: tcp(1), From: Windows}, Stops, "no socket in Linux announces 1/tcp", ""},
		"nobody, Linux":        {nil, Question{Port: tcp(1), From: Linux}, Unknown, "goes to Windows", ""},
		"Windows listens":      {nil, Question{Port: tcp(1), From: Linux, Suppose: true}, Reaches, "answered by Windows", ""},
		"Windows' answer lost": {func(o *Observation) { at(o, nftables.ChainHookInput, drop, reply) }, Question{Port: tcp(1), From: Linux}, Stops, "drops it", "sudo nft"},
		"to be listened to":    {nil, Question{Port: tcp(1), From: Windows, Suppose: true}, Reaches, "", ""},
		"exit node": {func(o *Observation) {
			routes(o, func(q netwatch.RouteQuery, a *netwatch.RouteAnswer) {
				if q.Dst == web {
					a.Oif = eth0
				}
			})
		}, Question{Port: http, From: Windows}, Stops, "sent to the container through eth0, not through docker0", "sudo ip rule add pref 2 to 172.17.0.0/16 lookup main"},
		"supposed container": {func(o *Observation) {
			o.Inside = func(netip.Addr) ([]ports.Listener, error) { return nil, ErrSupposed }
		}, Question{Port: http, From: Windows}, Reaches, "", ""},
		"hidden": {func(o *Observation) { o.Published, o.Hidden = nil, ruleset.PortSet(http) }, Question{Port: http, From: Windows}, Unknown, "an unknown container", ""},
		"redirect of one's own": {func(o *Observation) {
			o.Published[0].EngineServed, o.Published[0].To = true, netip.MustParseAddrPort("127.0.0.1:9000")
		}, Question{Port: http, From: Windows}, Reaches, "answered by server (7)", ""},
		"nobody, container":  {nil, Question{Port: tcp(1), From: Container, Addr: netip.MustParseAddr("172.17.0.3")}, Stops, "nobody listens on 172.17.0.1:1", ""},
		"rules not seen":     {func(o *Observation) { o.Follow = nil }, Question{Port: http, From: Windows}, Unknown, "run with sudo", ""},
		"legacy rules":       {func(o *Observation) { o.Unread = "iptables-legacy has rules" }, Question{Port: http, From: Windows}, Unknown, "iptables-legacy", ""},
		"MPTCP":              {func(o *Observation) { o.Listeners[2].MPTCP = true }, Question{Port: tcp(9000), From: Windows}, Stops, "listens with MPTCP", ""},
		"bound":              {func(o *Observation) { o.Listeners[2].Bound = true }, Question{Port: tcp(9000), From: Linux}, Stops, "has bound it, but does not listen", ""},
		"IPv6":               {func(o *Observation) { o.Listeners[2] = listens("tcp", "[::1]:9000") }, Question{Port: tcp(9000), From: Windows}, Stops, "only on IPv6", ""},
		"another address":    {func(o *Observation) { o.Listeners[2] = listens("tcp", "127.0.0.9:9000") }, Question{Port: tcp(9000), From: Windows}, Stops, "only on 127.0.0.9", ""},
		"localhost only":     {nil, Question{Port: tcp(9000), From: LAN}, Stops, "nobody listens on 192.0.2.2:9000; server (7) listens only on 127.0.0.1", ""},
		"no list of UDP":     {func(o *Observation) { o.NoUDP, o.Listeners = true, nil }, Question{Port: udp(8080), From: Windows}, Unknown, "does not list UDP sockets", ""},
		"no list, container": {func(o *Observation) { o.NoUDP = true }, Question{Port: udp(8080), From: Container, Addr: netip.MustParseAddr("172.17.0.3")}, Unknown, "does not list UDP sockets", ""},
		"another source":     {func(o *Observation) { o.Listeners[1] = listens("udp", "0.0.0.0:8080"); src(o, "192.0.2.2") }, Question{Port: udp(8080), From: Windows}, Unknown, "may answer from 192.0.2.2", ""},
		"dropped":            {func(o *Observation) { at(o, nftables.ChainHookInput, drop, nil) }, Question{Port: http, From: Windows}, Stops, "drops it", "sudo nft list ruleset"},
		"owned":              {func(o *Observation) { s := drop; s.Owned = true; at(o, nftables.ChainHookInput, s, nil) }, Question{Port: http, From: Windows}, Stops, "drops it", "# let the program that owns"},
		"may be dropped":     {func(o *Observation) { at(o, nftables.ChainHookInput, may, nil) }, Question{Port: http, From: Windows}, Unknown, "may drop it", ""},
		"lost all the same":  {func(o *Observation) { at(o, nftables.ChainHookInput, may, nil) }, Question{Port: tcp(1), From: Windows}, Stops, "no socket in Linux", ""},
		"answer dropped":     {func(o *Observation) { at(o, nftables.ChainHookOutput, drop, reply) }, Question{Port: tcp(9000), From: Windows}, Stops, "drops it", "sudo nft"},
		"then dropped":       {func(o *Observation) { at(o, nftables.ChainHookInput, drop, later) }, Question{Port: tcp(9000), From: Windows}, Stops, "drops it", "sudo nft"},
		"then, with UDP":     {func(o *Observation) { at(o, nftables.ChainHookInput, drop, later) }, Question{Port: udp(8080), From: Windows}, Reaches, "", ""},
		"proxy dropped":      {func(o *Observation) { at(o, nftables.ChainHookOutput, drop, toDocker) }, Question{Port: http, From: Windows}, Stops, "drops it", "sudo nft"},
		"martian":            {func(o *Observation) { o.Served = false; at(o, nftables.ChainHookPrerouting, dnat, fromWindows) }, Question{Port: http, From: Windows}, Stops, "sends its answer to itself", "sudo systemctl enable --now wslmirror"},
		"past the proxy":     {past, Question{Port: http, From: Windows}, Reaches, "172.17.0.2:80", ""},
		"past, from Linux":   {pastLinux, Question{Port: http, From: Linux}, Stops, "to Windows instead of to the client in Linux", "sudo wslmirror doctor"},
		"may be sent away": {func(o *Observation) {
			s := dnat
			s.Sure = false
			at(o, nftables.ChainHookPrerouting, s, nil)
			at(o, nftables.ChainHookInput, drop, nil)
		}, Question{Port: http, From: Windows}, Unknown, "may change it or send it elsewhere", ""},
		"masqueraded": {func(o *Observation) { at(o, nftables.ChainHookPostrouting, masquerade, nil) }, Question{Port: tcp(9000), From: Linux}, Stops, "changes its source 127.0.0.1", "sudo nft"},
		"redirected and back": {func(o *Observation) {
			s := dnat
			s.To = netip.MustParseAddrPort("127.0.0.1:9000")
			at(o, nftables.ChainHookOutput, s, nil)
		}, Question{Port: http, From: Linux}, Unknown, "conntrack does not recognize it", ""},
		"forwarding off": {func(o *Observation) { past(o); o.Links[1].Forwarding = false; refuse(o, loopback0, unix.EHOSTUNREACH) }, Question{Port: http, From: Windows}, Stops, "forwarding is off on loopback0", "sudo sysctl -w net.ipv4.ip_forward=1"},
		"route_localnet": {func(o *Observation) { o.Links[1].RouteLocalnet = false; refuse(o, loopback0, unix.EINVAL) }, Question{Port: http, From: Windows}, Stops, "cannot pass loopback0", "sudo sysctl -w net.ipv4.conf.loopback0.route_localnet=1"},
		"of the bridge":  {func(o *Observation) { past(o); o.Links[3].RouteLocalnet = false; refuse(o, docker0, unix.EINVAL) }, Question{Port: http, From: Windows}, Stops, "cannot pass docker0", "sudo wslmirror doctor"},
		"refused":        {func(o *Observation) { refuse(o, loopback0, unix.EACCES) }, Question{Port: http, From: Windows}, Stops, "no route", "sudo wslmirror doctor"},
		"cannot ask": {func(o *Observation) {
			o.Route = func(netwatch.RouteQuery) (a netwatch.RouteAnswer, _ error) { return a, errors.New("busy") }
		}, Question{Port: http, From: Windows}, Unknown, "busy", ""},
		"way back lost":   {func(o *Observation) { o.Rules = o.Rules[:1]; stays(o) }, Question{Port: tcp(9000), From: Windows}, Stops, "the answer to Windows stays in Linux", "sudo ip rule add pref 1 from all ipproto tcp lookup 127"},
		"way in lost":     {func(o *Observation) { o.Rules = o.Rules[1:]; turns(o) }, Question{Port: tcp(9000), From: Windows}, Stops, "sent back to Windows", "sudo ip rule add pref 0 from all iif loopback0 ipproto tcp lookup local"},
		"round and round": {func(o *Observation) { turns(o) }, Question{Port: tcp(9000), From: Linux}, Stops, "it loops between Windows and Linux", "sudo wslmirror doctor"},
		"container not seen": {func(o *Observation) {
			o.Inside = func(netip.Addr) ([]ports.Listener, error) { return nil, errors.New("run with sudo") }
		}, Question{Port: http, From: Windows}, Unknown, "cannot see whether a program listens on 172.17.0.2:80: run with sudo", ""},
		"another port":      {func(o *Observation) { inside(o, listens("tcp", "0.0.0.0:3000")) }, Question{Port: http, From: Windows}, Stops, "does not listen on 80/tcp, but on 3000", "# publish that port instead: --publish 8080:3000"},
		"its own localhost": {func(o *Observation) { inside(o, listens("tcp", "127.0.0.1:80")) }, Question{Port: http, From: Linux}, Stops, "only on its own 127.0.0.1", "# let the program"},
		"nothing in it":     {func(o *Observation) { inside(o) }, Question{Port: http, From: Linux}, Stops, "no program in the container", "# start"},
		"held":              {func(o *Observation) { o.Published[0].EngineServed = true }, Question{Port: http, From: Windows}, Unknown, "may only hold the port", ""},
		"computed":          {func(o *Observation) { o.Published[0].To = netip.AddrPort{} }, Question{Port: http, From: Windows}, Unknown, "an unknown container", ""},
		"not certain":       {func(o *Observation) { o.Published[0].Obstacle = ruleset.NotUnderstood }, Question{Port: http, From: Windows}, Unknown, "an unknown container", ""},
		"no engine's":       {func(o *Observation) { o.Published[0].Obstacle = ruleset.NotEngines }, Question{Port: http, From: Windows}, Reaches, "answered by server (7)", ""},
		"program not seen":  {func(o *Observation) { o.Listeners[2].PID = 0 }, Question{Port: tcp(9000), From: Windows}, Reaches, "an unknown program", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o := world()
			if test.change != nil {
				test.change(o)
			}
			got := o.Ask(test.ask)
			if got.Verdict != test.verdict || !strings.Contains(got.Why, test.why) {
				t.Errorf("it %s: %q, want %s: %q", got.Verdict, got.Why, test.verdict, test.why)
			}
			if first := strings.Join(got.Fix[:min(1, len(got.Fix))], ""); !strings.HasPrefix(first, test.do) || (first == "") != (test.do == "") {
				t.Errorf("it says to type %q, want %q", got.Fix, test.do)
			}
			stops := slices.IndexFunc(got.Hops, func(h Hop) bool { return h.Stops })
			if (got.Verdict == Stops) != (stops >= 0) || stops >= 0 && stops != len(got.Hops)-1 {
				t.Errorf("it %s, and of its hops number %d of %d stops it", got.Verdict, stops+1, len(got.Hops))
			}
			if t.Failed() {
				for _, h := range got.Hops {
					t.Logf("%+v", h)
				}
			}
		})
	}
}

// What stops a packet is told one after the other, as if what comes before let it pass.
func TestAskOn(t *testing.T) {
	drop := ruleset.Step{Does: ruleset.Drops, Sure: true}
	o := world()
	at(o, nftables.ChainHookInput, drop, nil)
	at(o, nftables.ChainHookOutput, drop, reply)
	list := o.AskOn(Question{Port: ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 9000}, From: Windows})
	var fixes []string
	for _, tr := range list {
		fixes = append(fixes, strings.Join(tr.Fix[:min(1, len(tr.Fix))], ""))
	}
	if len(list) != 3 || list[2].Verdict != Reaches || !slices.ContainsFunc(list[1].Hops, func(h Hop) bool { return h.Reply && h.Stops }) {
		t.Errorf("%q: %+v", fixes, list)
	}
}

func reply(_ ruleset.Packet, one ruleset.Single) bool { return one.Reply }
func later(_ ruleset.Packet, one ruleset.Single) bool { return one.Later }
func toDocker(p ruleset.Packet, _ ruleset.Single) bool {
	return p.Oif.Index == docker0
}
func fromWindows(p ruleset.Packet, one ruleset.Single) bool {
	return p.Iif.Index == loopback0 && !one.Flow.DstDone
}

// past sends what comes from Windows past the proxy, pastLinux what comes from Linux.
func past(o *Observation) {
	at(o, nftables.ChainHookPrerouting, ruleset.Step{Does: ruleset.Translates, To: netip.AddrPortFrom(web, 80), Sure: true}, fromWindows)
	at(o, nftables.ChainHookPostrouting, ruleset.Step{Does: ruleset.Masquerades, To: netip.MustParseAddrPort("172.17.0.1:80"), Sure: true}, toDocker)
}

func pastLinux(o *Observation) {
	past(o)
	at(o, nftables.ChainHookOutput, ruleset.Step{Does: ruleset.Translates, To: netip.AddrPortFrom(web, 80), Sure: true}, nil)
}

// routes changes what the kernel answers.
func routes(o *Observation, change func(netwatch.RouteQuery, *netwatch.RouteAnswer)) {
	route := o.Route
	o.Route = func(q netwatch.RouteQuery) (netwatch.RouteAnswer, error) {
		a, err := route(q)
		change(q, &a)
		return a, err
	}
}

// refuse has the kernel route nothing that arrives on a link.
func refuse(o *Observation, link int, err error) {
	routes(o, func(q netwatch.RouteQuery, a *netwatch.RouteAnswer) {
		if q.Iif == link {
			*a = netwatch.RouteAnswer{Type: unix.RTN_UNREACHABLE, Err: err}
		}
	})
}

// src has what starts here take another source.
func src(o *Observation, addr string) {
	routes(o, func(_ netwatch.RouteQuery, a *netwatch.RouteAnswer) { a.Src = netip.MustParseAddr(addr) })
}

// stays keeps in Linux what should go to Windows, and turns sends back there what comes
// from it.
func stays(o *Observation) {
	routes(o, func(q netwatch.RouteQuery, a *netwatch.RouteAnswer) {
		if q.Dst == ruleset.Localhost {
			*a = netwatch.RouteAnswer{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Oif: lo, Src: q.Dst}
		}
	})
}

func turns(o *Observation) {
	routes(o, func(q netwatch.RouteQuery, a *netwatch.RouteAnswer) {
		if q.Dst == ruleset.Localhost {
			*a = netwatch.RouteAnswer{Table: netwatch.LoopbackTable, Type: unix.RTN_UNICAST, Oif: loopback0, Src: q.Dst}
		}
	})
}

// inside has only these listen in the container.
func inside(o *Observation, list ...ports.Listener) {
	o.Inside = func(netip.Addr) ([]ports.Listener, error) { return list, nil }
}
