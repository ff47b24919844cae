package ruleset

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// A single packet through rules that the kernel accepted: what each chain does, in one
// or more words for each, and the packet at the end.
func TestFollow(t *testing.T) {
	h, index := host(t)
	loopback0, lo, docker0 := Iface{"loopback0", index}, Iface{"lo", 1}, Iface{"docker0", 77}
	var (
		container = netip.MustParseAddrPort("172.17.0.2:80")
		gateway   = netip.MustParseAddr("172.17.0.1")
		asked     = netip.AddrPortFrom(Localhost, 8080)
	)
	windows := func(hook *nftables.ChainHook) Packet {
		p := FromWindows(loopback0)
		p.Hook, p.Ports = *hook, PortSet(Port{unix.IPPROTO_TCP, 8080})
		return p
	}
	linux := func(hook *nftables.ChainHook) Packet {
		p := FromLinux(loopback0)
		p.Hook, p.Ports = *hook, PortSet(Port{unix.IPPROTO_TCP, 8080})
		return p
	}
	forwarded := windows(nftables.ChainHookPostrouting)
	forwarded.Oif, forwarded.Dst, forwarded.Ports = docker0, container.Addr(), PortSet(Port{unix.IPPROTO_TCP, 80})
	reply := Packet{Hook: *nftables.ChainHookPrerouting, Iif: docker0, Src: container.Addr(), Dst: gateway, Ports: PortSet(Port{unix.IPPROTO_TCP, 80})}
	replyOut := Packet{Hook: *nftables.ChainHookPostrouting, Oif: loopback0, Src: container.Addr(), Dst: Localhost, Ports: PortSet(Port{unix.IPPROTO_TCP, 80})}
	flow := NewFlow(Localhost, asked)
	settled, toContainer := flow, flow
	settled.SrcDone, settled.DstDone = true, true
	toContainer.To, toContainer.DstDone = container, true
	masked := toContainer
	masked.From, masked.SrcDone, masked.Mark = gateway, true, Mark{Value: 0x1000}

	pre := func(rules string) string {
		return "table ip t { chain pre { type nat hook prerouting priority dstnat; " + rules + "; }; }\n"
	}
	filter := func(hook, priority, policy, rules string) string {
		return fmt.Sprintf("table ip f%s { chain c { type filter hook %s priority %s; policy %s; %s; }; }\n", strings.Trim(priority, "-"), hook, priority, policy, rules)
	}
	const passed = " = 127.0.0.1 > 127.0.0.1 8080"
	tests := map[string]struct {
		rules  string
		packet Packet
		one    Single
		want   string
	}{
		"nothing":         {filter("prerouting", "0", "accept", "udp dport 1 drop"), windows(nftables.ChainHookPrerouting), Single{Flow: flow}, "f0 pass" + passed},
		"a rule":          {filter("prerouting", "0", "drop", `iif loopback0 accept comment "let in"`), windows(nftables.ChainHookPrerouting), Single{Flow: flow}, `f0 accept "let in"` + passed},
		"the policy":      {filter("input", "0", "drop", "iif lo accept"), windows(nftables.ChainHookInput), Single{Flow: settled}, "f0 drop" + passed},
		"reject":          {filter("output", "0", "accept", "tcp dport 8000-9000 reject"), linux(nftables.ChainHookOutput), Single{Flow: flow}, "f0 drop" + passed},
		"may drop":        {filter("output", "0", "accept", "limit rate 1/second drop"), linux(nftables.ChainHookOutput), Single{Flow: flow}, "f0 may drop" + passed},
		"lost either way": {filter("output", "0", "drop", "limit rate 1/second reject"), linux(nftables.ChainHookOutput), Single{Flow: flow}, "f0 drop" + passed},
		"may be accepted": {filter("output", "0", "drop", "limit rate 1/second accept"), linux(nftables.ChainHookOutput), Single{Flow: flow}, "f0 may drop" + passed},
		"may, then surely": {filter("output", "0", "accept", "limit rate 1/second drop") + filter("output", "10", "accept", "tcp dport 8080 drop"),
			linux(nftables.ChainHookOutput), Single{Flow: flow}, "f0 may drop, f10 drop" + passed},
		"dnat": {pre("tcp dport 8080 dnat to 172.17.0.2:80") + filter("prerouting", "0", "drop", "ct status dnat ip daddr 172.17.0.2 tcp dport 80 accept"),
			windows(nftables.ChainHookPrerouting), Single{Flow: flow}, "t dnat 172.17.0.2:80, f0 accept = 127.0.0.1 > 172.17.0.2 80"},
		"dnat to itself": {pre("dnat to 127.0.0.1") + "table ip u { chain pre { type nat hook prerouting priority 0; tcp dport 8080 dnat to 172.17.0.2:80; }; }\n" +
			filter("prerouting", "10", "accept", "ct status dnat drop"), windows(nftables.ChainHookPrerouting), Single{Flow: flow}, "t dnat 127.0.0.1:8080, u skip, f10 pass" + passed},
		"dnat by a map":       {pre("dnat ip to tcp dport map { 8080 : 172.17.0.2, 9000 : 172.17.0.3 }"), windows(nftables.ChainHookPrerouting), Single{Flow: flow}, "t dnat 172.17.0.2:8080 = 127.0.0.1 > 172.17.0.2 8080"},
		"dnat to one of many": {pre("dnat to 172.17.0.2-172.17.0.9"), windows(nftables.ChainHookPrerouting), Single{Flow: flow}, "t may dnat invalid AddrPort" + passed},
		"settled before":      {pre("tcp dport 8080 dnat to 172.17.0.2:80"), windows(nftables.ChainHookPrerouting), Single{Flow: settled}, "t skip" + passed},
		"redirect nowhere":    {pre("tcp dport 8080 redirect to :9000"), windows(nftables.ChainHookPrerouting), Single{Flow: flow}, "t drop" + passed},
		"redirect": {"table ip t { chain out { type nat hook output priority -100; tcp dport 8080 redirect to :9000; }; }\n", linux(nftables.ChainHookOutput),
			Single{Flow: flow, Own: Localhost}, "t redirect 127.0.0.1:9000 = 127.0.0.1 > 127.0.0.1 9000"},
		"masquerade": {"table ip t { chain post { type nat hook postrouting priority srcnat; oif != lo ip saddr 127.0.0.0/8 masquerade; }; }\n" + filter("postrouting", "300", "accept", "ct status snat accept"),
			forwarded, Single{Flow: toContainer, Own: gateway}, "t masquerade 172.17.0.1:80, f300 accept = 172.17.0.1 > 172.17.0.2 80"},
		"snat": {"table ip t { chain in { type nat hook input priority 100; snat to 10.0.0.1; }; }\n", windows(nftables.ChainHookInput), Single{Flow: flow}, "t masquerade 10.0.0.1:8080 = 10.0.0.1 > 127.0.0.1 8080"},
		"no NAT when forwarded": {filter("forward", "300", "accept", "oif loopback0 drop") + filter("forward", "0", "accept", "ct status snat drop"),
			Packet{Hook: *nftables.ChainHookForward, Iif: loopback0, Oif: docker0, Src: Localhost, Dst: container.Addr(), Ports: forwarded.Ports}, Single{Flow: toContainer},
			"f0 pass, f300 pass = 127.0.0.1 > 172.17.0.2 80"},
		"the answer": {filter("prerouting", "-150", "accept", "ip daddr 172.17.0.1 ct state established ct direction reply tcp sport 80 meta mark set ct mark accept") +
			filter("prerouting", "0", "drop", "ip daddr 127.0.0.1 meta mark 0x1000 tcp flags & (syn | ack) == syn | ack accept"),
			reply, Single{Reply: true, Flow: masked}, "f150 accept, f0 accept = 172.17.0.2 > 127.0.0.1 80, mark 0x1000"},
		"the answer leaves": {filter("postrouting", "0", "accept", "ip saddr != 172.17.0.2 drop") + filter("postrouting", "300", "accept", "ip saddr 127.0.0.1 tcp sport 8080 accept"),
			replyOut, Single{Reply: true, Flow: masked}, "f0 pass, f300 accept = 127.0.0.1 > 127.0.0.1 8080"},
		"what comes then": {filter("prerouting", "0", "drop", "ct state new accept"), windows(nftables.ChainHookPrerouting), Single{Later: true, Flow: settled}, "f0 drop" + passed},
		"marks": {filter("output", "0", "accept", "ct mark set 0x30 meta mark set 0x5") + filter("output", "10", "accept", "ct mark & 0x10 != 0 meta mark set meta mark | 0x8") +
			filter("output", "20", "accept", "meta mark 0xd drop"), linux(nftables.ChainHookOutput), Single{Flow: flow}, "f0 pass, f10 pass, f20 drop" + passed + ", mark 0xd"},
		"a mark that may be set": {filter("output", "0", "accept", "limit rate 1/second meta mark set 0x5") + filter("output", "10", "accept", "meta mark 0x5 drop"),
			linux(nftables.ChainHookOutput), Single{Flow: flow}, "f0 pass, f10 may drop" + passed + ", mark unknown"},
		"route": {"table ip t { chain out { type route hook output priority mangle; tcp dport 8080 meta mark set 0x5; }; }\n", linux(nftables.ChainHookOutput), Single{Flow: flow}, "t pass" + passed + ", mark 0x5, reroute"},
		"of one priority": {filter("output", "0", "accept", "meta mark set 0x5") + "table inet g { chain c { type filter hook output priority 0; meta mark 0x5 drop; }; }\n",
			linux(nftables.ChainHookOutput), Single{Flow: flow}, "f0 pass, g may drop" + passed + ", mark 0x5"},
		"may, of one priority": {filter("output", "0", "accept", "limit rate 1/second drop") + "table inet g { chain c { type filter hook output priority 0; oif lo drop; }; }\n",
			linux(nftables.ChainHookOutput), Single{Flow: flow}, "f0 may drop, g pass" + passed},
		"one of one priority": {pre("tcp dport 8080 dnat to 172.17.0.2:80") + "table inet g { chain c { type nat hook prerouting priority dstnat; tcp dport 1 dnat ip to 172.17.0.3; }; }\n",
			windows(nftables.ChainHookPrerouting), Single{Flow: flow}, "t dnat 172.17.0.2:80, g skip = 127.0.0.1 > 172.17.0.2 80"},
		"both of one priority": {pre("tcp dport 8080 dnat to 172.17.0.2:80") + "table inet g { chain c { type nat hook prerouting priority dstnat; tcp dport 8080 dnat ip to 172.17.0.3; }; }\n",
			windows(nftables.ChainHookPrerouting), Single{Flow: flow}, "t may dnat 172.17.0.2:80, g may skip = 127.0.0.1 > 172.17.0.2 80"},
		"types of addresses": {filter("output", "0", "drop", "fib saddr type local fib daddr type local accept"), linux(nftables.ChainHookOutput), Single{Flow: flow}, "f0 accept" + passed},
		"dormant":            {"table ip t { flags dormant; chain out { type filter hook output priority 0; policy drop; }; }\n", linux(nftables.ChainHookOutput), Single{Flow: flow}, passed},
		"notrack":            {filter("output", "-300", "accept", "notrack"), linux(nftables.ChainHookOutput), Single{Flow: flow}, "f300 may pass" + passed},
		"no client's port": {filter("postrouting", "0", "accept", "tcp dport { 80, 8080 } drop; tcp dport 1-32767 drop"), replyOut, Single{Reply: true, Flow: masked},
			"f0 pass = 127.0.0.1 > 127.0.0.1 8080"},
		"any client's port": {filter("postrouting", "0", "accept", "tcp dport 32768-65535 drop"), replyOut, Single{Reply: true, Flow: masked}, "f0 drop = 172.17.0.2 > 127.0.0.1 80"},
		"some clients' ports": {filter("output", "0", "accept", "tcp sport 32768-60999 drop"), linux(nftables.ChainHookOutput), Single{Flow: flow},
			"f0 may drop" + passed},
		"ahead of conntrack": {filter("output", "-300", "accept", "ct mark set 0x7") + filter("output", "0", "accept", "ct mark 0x7 drop"), linux(nftables.ChainHookOutput), Single{Flow: flow},
			"f300 pass, f0 pass" + passed},
		"let pass": {filter("output", "0", "drop", "meta mark set 0x1") + filter("output", "10", "accept", "tcp dport 8080 drop"), linux(nftables.ChainHookOutput),
			Single{Flow: flow, Pass: func(s Step) bool { return s.Chain.Table() == "f0" }}, "f0 accept, f10 drop" + passed + ", mark 0x1"},
		"another way in": {filter("prerouting", "0", "drop", "iifname lo accept"), Packet{Hook: *nftables.ChainHookPrerouting, Iif: lo, Src: Localhost, Dst: Localhost, Ports: PortSet(Port{unix.IPPROTO_UDP, 8080})}, Single{Flow: flow}, "f0 accept" + passed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := h.Run("sh", "-c", "nft flush ruleset && exec nft -f - <<'END'\n"+test.rules+"END"); err != nil {
				t.Fatal(err)
			}
			test.one.Local = netip.Addr.IsLoopback
			steps, after, end := readRules(t, h).Follow(test.packet, test.one)
			if got := followed(steps, after, end); got != test.want {
				t.Errorf("it comes to\n\t%s\nwant\n\t%s", got, test.want)
			}
		})
	}
}

// followed formats the result of Follow as in the table above.
func followed(steps []Step, after Packet, end Single) string {
	var list []string
	for _, s := range steps {
		line := s.Chain.Table() + " "
		if !s.Sure {
			line += "may "
		}
		line += string(s.Does)
		if s.Does == Translates || s.Does == Redirects || s.Does == Masquerades {
			line += " " + s.To.String()
		}
		if s.Comment != "" {
			line += fmt.Sprintf(" %q", s.Comment)
		}
		list = append(list, line)
	}
	line := fmt.Sprintf("%s = %s > %s %d", strings.Join(list, ", "), after.Src, after.Dst, after.single().Number)
	switch {
	case end.Mark.Unknown:
		line += ", mark unknown"
	case end.Mark.Value != 0:
		line += fmt.Sprintf(", mark %#x", end.Mark.Value)
	}
	if end.Reroute {
		line += ", reroute"
	}
	return line
}

// Rules written by iptables are understood too.
func TestFollowIptables(t *testing.T) {
	h, index := host(t)
	rules := `*nat
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A POSTROUTING -m addrtype --src-type LOCAL -o docker0 -j MASQUERADE
COMMIT
*mangle
:OUTPUT ACCEPT [0:0]
-A OUTPUT -p tcp -m tcp --dport 8080 -j MARK --set-xmark 0x2000/0x2000
-A OUTPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j CONNMARK --save-mark
COMMIT
*filter
:OUTPUT ACCEPT [0:0]
-A OUTPUT -p tcp -m tcp ! --tcp-flags SYN SYN -j DROP
-A OUTPUT -m connmark --mark 0x2000 -j ACCEPT
-A OUTPUT -p tcp -m multiport --dports 80,8080 -j ACCEPT
-A OUTPUT -j DROP
COMMIT
`
	if _, err := h.Run("sh", "-c", "nft flush ruleset && exec iptables-nft-restore <<'END'\n"+rules+"END"); err != nil {
		t.Fatal(err)
	}
	rs := readRules(t, h)
	p := FromLinux(Iface{"loopback0", index})
	p.Ports = PortSet(Port{unix.IPPROTO_TCP, 8080})
	one := Single{Flow: NewFlow(Localhost, netip.AddrPortFrom(Localhost, 8080)), Local: netip.Addr.IsLoopback, Own: netip.MustParseAddr("192.0.2.2")}
	answer := Packet{Hook: *nftables.ChainHookOutput, Oif: p.Oif, Src: Localhost, Dst: Localhost, Ports: p.Ports}
	steps, after, end := rs.Follow(answer, Single{Reply: true, Flow: one.Flow, Local: one.Local})
	if got, want := followed(steps, after, end), "mangle pass, filter drop = 127.0.0.1 > 127.0.0.1 8080"; got != want {
		t.Errorf("the answer comes to\n\t%s\nwant\n\t%s", got, want)
	}
	steps, p, one = rs.Follow(p, one)
	if got, want := followed(steps, p, one), "mangle pass, filter accept = 127.0.0.1 > 127.0.0.1 8080, mark 0x2000, reroute"; got != want {
		t.Errorf("at output it comes to\n\t%s\nwant\n\t%s", got, want)
	}
	p.Hook, one.Mark = *nftables.ChainHookPostrouting, Mark{}
	p.Oif = Iface{"docker0", 77}
	steps, p, one = rs.Follow(p, one)
	if got, want := followed(steps, p, one), "nat masquerade 192.0.2.2:8080 = 192.0.2.2 > 127.0.0.1 8080"; got != want {
		t.Errorf("at postrouting it comes to\n\t%s\nwant\n\t%s", got, want)
	}
}
