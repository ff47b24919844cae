package ruleset

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// The ports that the random rules name and that the probes use.
const (
	firstProbe = 7000
	probes     = 12
)

// A prober sends the first packets of flows to 127.0.0.1 and finds out from conntrack
// where they went.
type prober struct {
	t     *testing.T
	b     *lab.Bench
	conns map[bool]*net.UDPConn // from Windows, or from Linux
	ct    *netlink.Handle
}

func newProber(t *testing.T) *prober {
	p := &prober{t: t, b: labtest.New(t, lab.Options{}), conns: map[bool]*net.UDPConn{}}
	// Windows sends packets to Linux for ports that are bound there. Nobody answers:
	// the sockets are bound to another address.
	for i := range uint16(probes) {
		in(t, p.b.WSL, func() error {
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9), Port: int(firstProbe + i)})
			if err == nil {
				t.Cleanup(func() { c.Close() })
			}
			return err
		})
	}
	for windows, h := range map[bool]*lab.Host{true: p.b.Windows, false: p.b.WSL} {
		// Dial lets Windows learn which ports are bound.
		c, err := h.Dial("udp", "", "127.0.0.1:9", labtest.Patience())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		in(t, h, func() (err error) {
			p.conns[windows], err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			return err
		})
		t.Cleanup(func() { p.conns[windows].Close() })
	}
	in(t, p.b.WSL, func() (err error) {
		p.ct, err = netlink.NewHandle(unix.NETLINK_NETFILTER)
		return err
	})
	t.Cleanup(p.ct.Close)
	return p
}

// went sends a packet to each port and returns where each of them went. Dropped packets
// are missing.
func (p *prober) went(windows bool) map[uint16]netip.AddrPort {
	p.t.Helper()
	conn := p.conns[windows]
	for i := range probes {
		to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: firstProbe + i}
		// A drop at the hook output is EPERM. Earlier refusals appear as errors of
		// later calls.
		for range 2 {
			if _, err := conn.WriteToUDP([]byte("?"), to); err == nil || strings.Contains(err.Error(), "not permitted") {
				break
			}
		}
	}
	flows, err := p.ct.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		p.t.Fatal(err)
	}
	source := conn.LocalAddr().(*net.UDPAddr).Port
	went := map[uint16]netip.AddrPort{}
	for _, f := range flows {
		if f.Forward.Protocol == unix.IPPROTO_UDP && int(f.Forward.SrcPort) == source {
			to, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
			went[f.Forward.DstPort] = netip.AddrPortFrom(to.Unmap(), f.Reverse.SrcPort)
		}
	}
	return went
}

// contradiction says how the fate of a packet contradicts the outcomes of a walk, "" if
// it does not.
func contradiction(port uint16, to netip.AddrPort, arrived bool, outcomes []Outcome) string {
	possible := !arrived || to == netip.AddrPortFrom(Localhost, port)
	happened := "dropped"
	if arrived {
		happened = "to " + to.String()
	}
	explained := arrived && possible
	for _, o := range outcomes {
		if !o.Ports.Has(Port{unix.IPPROTO_UDP, port}) {
			continue
		}
		is := false
		switch o.Fate {
		case Dropped:
			is = !arrived
		case Redirected:
			is = arrived && to.Addr() != Localhost || arrived && to.Port() != port
		case Translated:
			want := o.To
			if want.Port() == 0 {
				want = netip.AddrPortFrom(want.Addr(), port)
			}
			is = arrived && (to == want || !want.Addr().IsValid() && to.Port() == want.Port())
		}
		explained = explained || is
		if o.Sure && !is {
			return fmt.Sprintf("%d was %s, but is certainly %s", port, happened, describe(o))
		}
	}
	if !explained {
		return fmt.Sprintf("%d was %s, and the walk does not say so", port, happened)
	}
	return ""
}

// The walk compared with the kernel: random rulesets, and packets through them. The
// rulesets are the same in every run; -run TestWalkAsKernel/N repeats one.
func TestWalkAsKernel(t *testing.T) {
	p := newProber(t)
	link, err := p.b.WSL.Net.LinkByName("loopback0")
	if err != nil {
		t.Fatal(err)
	}
	index := link.Attrs().Index
	for seed := range uint64(120) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rules := randomRules(rand.New(rand.NewPCG(seed, 0)))
			if _, err := p.b.WSL.Run("sh", "-c", "nft flush ruleset && exec nft -f - <<'END'\n"+rules+"END"); err != nil {
				t.Fatalf("%v\n%s", err, rules)
			}
			rs := readRules(t, p.b.WSL)
			if err := p.ct.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
				t.Fatal(err)
			}
			for windows, packet := range map[bool]Packet{true: FromWindows(Iface{"loopback0", index}), false: FromLinux(Iface{"loopback0", index})} {
				outcomes := rs.Walk(packet, Sight{})
				// The packet from Windows may still be under way.
				var wrong []string
				for deadline := time.Now().Add(lab.Scaled(10 * time.Second)); ; {
					wrong = nil
					went := p.went(windows)
					for i := range uint16(probes) {
						to, arrived := went[firstProbe+i]
						if s := contradiction(firstProbe+i, to, arrived, outcomes); s != "" {
							wrong = append(wrong, s)
						}
					}
					if len(wrong) == 0 || time.Now().After(deadline) {
						break
					}
				}
				if len(wrong) > 0 {
					var all []string
					for _, o := range outcomes {
						all = append(all, describe(o))
					}
					t.Errorf("from Windows: %v\n%s\nThe walk comes to\n%s\nfor\n%s", windows,
						strings.Join(wrong, "\n"), strings.Join(all, "\n"), rules)
				}
			}
		})
	}
}

// randomRules writes a ruleset with everything that can decide about a packet.
func randomRules(r *rand.Rand) string {
	var b strings.Builder
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	port := func() int { return firstProbe + r.IntN(probes) }
	target := func() string {
		return "dnat " + pick(fmt.Sprintf("ip to 127.0.0.%d", 2+r.IntN(3)), fmt.Sprintf("ip to 127.0.0.%d:%d", 2+r.IntN(3), 8000+r.IntN(9)),
			"to :8100", "ip to 127.0.0.2-127.0.0.4")
	}
	match := func() string {
		a, z := port(), port()
		if a > z {
			a, z = z, a
		}
		return pick(
			fmt.Sprintf("udp dport %d", a),
			fmt.Sprintf("udp dport != %d", a),
			fmt.Sprintf("udp dport %d-%d", a, z),
			fmt.Sprintf("udp dport != %d-%d", a, z),
			fmt.Sprintf("udp dport { %d, %d }", a, z),
			fmt.Sprintf("udp dport != { %d-%d, %d }", a, a+2, a+4),
			fmt.Sprintf("meta l4proto { tcp, udp } th dport %d", z),
			fmt.Sprintf("meta l4proto . th dport { udp . %d, tcp . %d }", a, z),
			fmt.Sprintf("ip daddr . udp dport { 127.0.0.1 . %d-%d }", a, z),
			fmt.Sprintf("udp dport >= %d", z),
			fmt.Sprintf("udp dport < %d", a),
			fmt.Sprintf("udp dport %d iifname \"loop*\"", a),
			fmt.Sprintf("udp dport %d oifname != \"lo\"", a),
			fmt.Sprintf("udp dport %d fib daddr type local", z),
			fmt.Sprintf("udp dport %d ct state new", z),
			fmt.Sprintf("tcp dport %d", a),
			fmt.Sprintf("ip protocol udp ip daddr 127.0.0.0/8 ip saddr 127.0.0.1 th dport %d", a),
			"ip daddr != 127.0.0.0/8",
			fmt.Sprintf("meta mark 0x1 udp dport %d", z),
			fmt.Sprintf("udp dport %d limit rate over 1/hour burst 1 packets", z),
			fmt.Sprintf("udp dport %d numgen inc mod 2 0", a),
			fmt.Sprintf("udp dport %d meta skuid 0", a),
			fmt.Sprintf("udp dport %d-%d meta mark set 0x1", a, z),
			fmt.Sprintf("udp dport %d @th,32,16 > 0", a),
		)
	}
	// A rule jumps only to chains after its own, so there are no loops.
	const chains = 4
	rule := func(chain int, nat bool) {
		verdict := pick("accept", "drop", "return", "continue", "counter", "counter")
		switch {
		case chain < chains-1 && r.IntN(3) == 0:
			verdict = fmt.Sprintf("%s c%d", pick("jump", "goto"), chain+1+r.IntN(chains-1-chain))
		case nat && r.IntN(2) == 0:
			to := target()
			fmt.Fprintf(&b, "\t\t%s meta l4proto { tcp, udp } %s\n", match(), to)
			return
		case nat && r.IntN(4) == 0:
			fmt.Fprintf(&b, "\t\tdnat ip to udp dport map { %d : 127.0.0.2, %d-%d : 127.0.0.3 }\n", firstProbe, firstProbe+3, firstProbe+5)
			return
		case chain < chains-1 && r.IntN(4) == 0:
			fmt.Fprintf(&b, "\t\t%s meta l4proto { tcp, udp } th dport vmap { %d : jump c%d, %d : %s, %d-%d : %s }\n", match(),
				firstProbe, chain+1, firstProbe+1, pick("drop", "accept", "return"),
				firstProbe+4, firstProbe+6, pick("accept", "continue", fmt.Sprintf("goto c%d", chains-1)))
			return
		}
		fmt.Fprintf(&b, "\t\t%s %s\n", match(), verdict)
	}
	// Without this a ruleset may not need conntrack, and the kernel then has none.
	b.WriteString("table ip conntrack { chain c { type filter hook postrouting priority 300; ct state new accept; }; }\n")
	for table := range 1 + r.IntN(3) {
		family := pick("ip", "ip", "inet")
		nat := r.IntN(3) > 0
		fmt.Fprintf(&b, "table %s t%d {\n", family, table)
		for chain := chains - 1; chain >= 0; chain-- {
			fmt.Fprintf(&b, "\tchain c%d {\n", chain)
			for range r.IntN(4) {
				// Only a chain that no filter chain jumps to may translate.
				rule(chain, nat)
			}
			b.WriteString("\t}\n")
		}
		for base := range 1 + r.IntN(2) {
			for _, hook := range []string{"prerouting", "output"} {
				// No two chains of different tables have the same priority: their order
				// is not visible.
				priority := -170 + 40*r.IntN(5) + 3*table
				kind := "nat"
				if !nat {
					// Not after the nat chains: the walk does not follow a packet after
					// its translation.
					kind, priority = "filter", -190+20*r.IntN(4)+3*table
				}
				policy := pick("accept", "accept", "accept", "drop")
				fmt.Fprintf(&b, "\tchain %s%d {\n\t\ttype %s hook %s priority %d; policy %s\n", hook, base, kind, hook, priority, policy)
				for range 1 + r.IntN(5) {
					rule(-1, nat)
				}
				b.WriteString("\t}\n")
			}
		}
		b.WriteString("}\n")
	}
	return b.String()
}
