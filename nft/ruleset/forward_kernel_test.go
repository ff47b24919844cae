package ruleset

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// The obstacles compared with the kernel: random rules for forwarded packets, and
// packets that bypass the proxy and meet them. -run TestObstaclesAsKernel/N repeats one
// case.
func TestObstaclesAsKernel(t *testing.T) {
	p := newProber(t)
	wsl := p.b.WSL
	engine, err := p.b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	if err := wsl.Sysctl("ipv4/conf/docker0/route_localnet", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := engine.Container.Run("ip", "address", "add", "172.17.0.3/16", "dev", "eth0"); err != nil {
		t.Fatal(err)
	}
	var published, targets strings.Builder
	for i := range uint16(probes) {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 17, 0, byte(2 + i%2)}), 9000+i/3)
		fmt.Fprintf(&targets, "udp . %d : %s . %d, ", firstProbe+i, to.Addr(), to.Port())
		fmt.Fprintf(&published, "\t\tudp dport %d dnat to %s\n", firstProbe+i, to)
		if i%3 < 2 { // each once
			if _, err := engine.Container.ServeEcho("udp", to.String()); err != nil {
				t.Fatal(err)
			}
		}
	}
	index := func(name string) int {
		t.Helper()
		link, err := wsl.Net.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return link.Attrs().Index
	}
	loopback := Iface{"loopback0", index("loopback0")}
	bridges := []Bridge{{Iface{"docker0", index("docker0")}, []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}}}
	// Like our own table.
	direct := "table ip " + ownTable + ` {
	map direct { type inet_proto . inet_service : ipv4_addr . inet_service; elements = { ` + targets.String() + ` }; }
	chain pre { type nat hook prerouting priority dstnat - 1; iif loopback0 ip daddr 127.0.0.1 dnat ip to meta l4proto . th dport map @direct; }
	chain post { type nat hook postrouting priority srcnat + 1; ip saddr 127.0.0.0/8 oifname != { lo, loopback0 } ct status dnat masquerade; }
}`
	var wrong, stopped int
	const seeds = 60
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			sure := seed%3 != 0
			rules := "table ip engine { chain ports {\n" + published.String() + "}\n" +
				"chain arriving { type nat hook prerouting priority dstnat; jump ports; }\n" +
				"chain leaving { type nat hook output priority -100; ip daddr != 127.0.0.0/8 jump ports; }\n}\n" +
				randomForward(rand.New(rand.NewPCG(seed, 1)), sure)
			if _, err := wsl.Run("sh", "-c", "nft flush ruleset && exec nft -f - <<'END'\n"+rules+"END"); err != nil {
				t.Fatalf("%v\n%s", err, rules)
			}
			if _, err := wsl.Run("nft", direct); err != nil {
				t.Fatalf("%v\n%s", err, direct)
			}
			view := readRules(t, wsl).Analyse(loopback, bridges)
			if len(view.Published) != probes {
				t.Fatalf("%d ports are published", len(view.Published))
			}
			if err := p.ct.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
				t.Fatal(err)
			}
			var contradictions []string
			for deadline := time.Now().Add(lab.Scaled(10 * time.Second)); ; {
				contradictions = nil
				answered := p.answers()
				for _, pub := range view.Published {
					switch got := answered[pub.Port.Number]; {
					case pub.Obstacle == "" && !got:
						contradictions = append(contradictions, fmt.Sprintf("%s has no obstacle and does not answer", pub.Port))
					case pub.Obstacle != "" && sure && got:
						contradictions = append(contradictions, fmt.Sprintf("%s answers, though %s", pub.Port, pub.Obstacle))
					}
				}
				if len(contradictions) == 0 || time.Now().After(deadline) {
					break
				}
			}
			if len(contradictions) > 0 {
				t.Errorf("%s\nby\n%s", strings.Join(contradictions, "\n"), rules)
			}
			wrong += len(contradictions)
			for _, pub := range view.Published {
				if pub.Obstacle != "" {
					stopped++
				}
			}
		})
	}
	if stopped == 0 || stopped == seeds*probes {
		t.Errorf("%d ports had an obstacle", stopped)
	}
	t.Logf("%d ports with an obstacle, %d contradictions", stopped, wrong)
}

// answers sends a packet from Windows to each port and returns the ports that answer.
func (p *prober) answers() map[uint16]bool {
	conn := p.conns[true]
	for i := range probes {
		// Errors may belong to refusals of earlier packets.
		for range 2 {
			if _, err := conn.WriteToUDP([]byte("?"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: firstProbe + i}); err == nil {
				break
			}
		}
	}
	answered := map[uint16]bool{}
	buf := make([]byte, 100)
	for deadline := time.Now().Add(20 * time.Millisecond); time.Now().Before(deadline) && len(answered) < probes; {
		if err := conn.SetReadDeadline(deadline); err != nil {
			p.t.Fatal(err)
		}
		if _, from, err := conn.ReadFromUDP(buf); err == nil {
			answered[uint16(from.Port)] = true
		}
	}
	return answered
}

// randomForward writes rules for translated packets: at the hook forward, and at
// prerouting after the translation. If sure is set, the walk knows everything that they
// match on. Replies then pass, because the walk does not know their destination ports.
func randomForward(r *rand.Rand, sure bool) string {
	var b strings.Builder
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	match := func() string {
		port, addr := 9000+r.IntN(4), 2+r.IntN(2)
		known := []string{
			fmt.Sprintf("ip daddr 172.17.0.%d", addr),
			fmt.Sprintf("ip daddr != 172.17.0.%d", addr),
			"ip daddr 172.17.0.0/16", "ip daddr 172.0.0.0/8", "ip daddr 127.0.0.0/8", "ip saddr 127.0.0.1",
			fmt.Sprintf("ip daddr { 10.0.0.1, 172.17.0.%d }", addr),
			"ip daddr 172.17.0.2-172.17.0.2",
			fmt.Sprintf("ip daddr . udp dport { 172.17.0.%d . %d }", addr, port),
			fmt.Sprintf("ip daddr . udp dport { 172.17.0.0/24 . %d-%d }", port, port+1),
			fmt.Sprintf("udp dport %d", port), fmt.Sprintf("udp dport %d", firstProbe+r.IntN(probes)),
			fmt.Sprintf("udp dport %d-%d", port, port+1), fmt.Sprintf("udp dport >= %d", port),
			fmt.Sprintf("tcp dport %d", port), fmt.Sprintf("meta l4proto . th dport { udp . %d }", port),
			`iifname "loopback0"`, `iifname != "docker0"`, `oifname "docker0"`, `oifname != "docker0"`, `oifname "dock*"`, `oif "docker0"`,
			"ct status dnat", "ct state new", "ct state established", "ct direction reply", "fib daddr type local", "fib daddr type unicast",
		}
		if sure {
			return pick(known...)
		}
		return pick(append(slices.Clip(known),
			"ip daddr 172.16.0.0/12", "meta mark 0x1", "ct mark 0x0", "limit rate over 1/hour burst 1 packets", "numgen inc mod 2 0",
			"udp length > 5", "ip ttl > 5", "ct original ip daddr 127.0.0.1", "fib saddr type local", "meta skuid 0", "@th,32,16 > 0")...)
	}
	const chains = 3
	rule := func(chain int) {
		verdict := pick("accept", "drop", "drop", "return", "reject", "counter", "continue")
		if chain < chains-1 && r.IntN(3) == 0 {
			verdict = fmt.Sprintf("%s c%d", pick("jump", "goto"), chain+1+r.IntN(chains-1-chain))
			if r.IntN(3) == 0 {
				verdict = fmt.Sprintf("ip daddr vmap { 172.17.0.2 : %s, 172.17.0.3 : %s }", verdict, pick("accept", "continue", "drop"))
			}
		}
		fmt.Fprintf(&b, "\t\t%s %s\n", match(), verdict)
	}
	replies := ""
	if sure {
		replies = "\t\tct state established accept\n"
	}
	for table := range 1 + r.IntN(2) {
		fmt.Fprintf(&b, "table %s t%d {\n", pick("ip", "inet"), table)
		for chain := chains - 1; chain >= 0; chain-- {
			fmt.Fprintf(&b, "\tchain c%d {\n", chain)
			for range r.IntN(4) {
				rule(chain)
			}
			b.WriteString("\t}\n")
		}
		for base, hook := range []string{"forward", pick("forward", "prerouting")} {
			fmt.Fprintf(&b, "\tchain %s%d {\n\t\ttype filter hook %s priority %d; policy %s\n%s",
				hook, base, hook, -50+20*r.IntN(5)+3*table, pick("accept", "accept", "accept", "drop"), replies)
			for range 1 + r.IntN(4) {
				rule(-1)
			}
			b.WriteString("\t}\n")
		}
		b.WriteString("}\n")
	}
	return b.String()
}
