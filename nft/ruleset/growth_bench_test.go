package ruleset

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// publishing writes rulesets that publish ports as the engines do. The ports are not
// adjacent, so no two of them share a span.
var publishing = []struct {
	name, file string
	rules      func(ports []int) string
	served     bool // by the engine's rules, not a proxy
	direct     bool // the ports bypass the proxy
}{{
	name: "docker", file: "docker.iptables", rules: docker,
}, {
	name: "docker-direct", file: "docker.iptables", rules: docker, direct: true,
}, {
	name: "netavark", file: "netavark.iptables", served: true,
	rules: func(ports []int) string {
		var b strings.Builder
		b.WriteString("*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:NETAVARK-HOSTPORT-DNAT - [0:0]\n:NETAVARK-HOSTPORT-SETMARK - [0:0]\n")
		for _, p := range ports {
			fmt.Fprintf(&b, ":NETAVARK-DN-%d - [0:0]\n", p)
		}
		b.WriteString("-A PREROUTING -m addrtype --dst-type LOCAL -j NETAVARK-HOSTPORT-DNAT\n" +
			"-A OUTPUT -m addrtype --dst-type LOCAL -j NETAVARK-HOSTPORT-DNAT\n" +
			"-A NETAVARK-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000\n")
		for _, p := range ports {
			fmt.Fprintf(&b, "-A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport %d -m comment --comment \"dnat name: podman id: 0123456789abcdef\" -j NETAVARK-DN-%d\n", p, p)
			fmt.Fprintf(&b, "-A NETAVARK-DN-%d -s 10.88.0.0/16 -p tcp -m tcp --dport %d -j NETAVARK-HOSTPORT-SETMARK\n", p, p)
			fmt.Fprintf(&b, "-A NETAVARK-DN-%d -s 127.0.0.1/32 -p tcp -m tcp --dport %d -j NETAVARK-HOSTPORT-SETMARK\n", p, p)
			fmt.Fprintf(&b, "-A NETAVARK-DN-%d -p tcp -m tcp --dport %d -j DNAT --to-destination 10.88.0.2:%d\n", p, p, p)
		}
		return b.String() + "COMMIT\n"
	},
}, {
	name: "map", file: "map.nft", served: true,
	rules: func(ports []int) string {
		var b strings.Builder
		b.WriteString("table ip engine {\n\tmap published {\n\t\ttype inet_proto . inet_service : ipv4_addr . inet_service\n\t\telements = {\n")
		for _, p := range ports {
			fmt.Fprintf(&b, "\t\t\ttcp . %d : 172.17.0.2 . %d,\n", p, p)
		}
		b.WriteString("\t\t}\n\t}\n\tchain translate { dnat ip to meta l4proto . th dport map @published; }\n" +
			"\tchain pre { type nat hook prerouting priority dstnat; fib daddr type local jump translate; }\n" +
			"\tchain out { type nat hook output priority -100; fib daddr type local jump translate; }\n}\n")
		return b.String()
	},
}}

// docker writes what Docker with its proxy writes for one container.
func docker(ports []int) string {
	var b strings.Builder
	b.WriteString("*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n" +
		"-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n" +
		"-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n" +
		"-A DOCKER -i docker0 -j RETURN\n")
	for _, p := range ports {
		fmt.Fprintf(&b, "-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport %d -j MASQUERADE\n", p)
		fmt.Fprintf(&b, "-A DOCKER ! -i docker0 -p tcp -m tcp --dport %d -j DNAT --to-destination 172.17.0.2:%d\n", p, p)
	}
	b.WriteString("COMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n:DOCKER - [0:0]\n-A FORWARD -o docker0 -j DOCKER\n")
	for _, p := range ports {
		fmt.Fprintf(&b, "-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport %d -j ACCEPT\n", p)
	}
	return b.String() + "COMMIT\n"
}

// What a change of the ruleset costs the daemon: reading, decoding and walking it.
func BenchmarkRead(b *testing.B) {
	bench := labtest.New(b, lab.Options{})
	link, err := bench.WSL.Net.LinkByName("loopback0")
	if err != nil {
		b.Fatal(err)
	}
	loopback := Iface{link.Attrs().Name, link.Attrs().Index}
	for _, style := range publishing {
		for _, n := range []int{10, 100, 1000, 5000} {
			b.Run(fmt.Sprintf("%s/%d", style.name, n), func(b *testing.B) {
				bridges := []Bridge{{Iface{"docker0", 1000}, []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}}}
				var ports []int
				for i := range n {
					ports = append(ports, 10000+2*i)
				}
				file := filepath.Join(b.TempDir(), style.file)
				if err := os.WriteFile(file, []byte(style.rules(ports)), 0o600); err != nil {
					b.Fatal(err)
				}
				load(b, bench.WSL, file)
				if !style.direct {
					bridges = nil
				}
				measureLooks(b, bench.WSL, func(rs *Ruleset) error {
					a := rs.Analyse(loopback, bridges)
					if len(a.Published) != n || a.EngineServed.Empty() == style.served || style.direct && a.Published[n-1].Obstacle != "" {
						return fmt.Errorf("%d ports, %d of them engine-served", len(a.Published), a.EngineServed.Len())
					}
					return nil
				})
			})
		}
	}
}

// measureLooks measures the cost of reading and analysing the ruleset of h. cpu-ms/op
// includes the kernel and the garbage collector.
func measureLooks(b *testing.B, h *lab.Host, analyse func(*Ruleset) error) {
	b.Helper()
	in(b, h, func() error {
		r, err := OpenReader(ownTable)
		if err != nil {
			return err
		}
		defer r.Close()
		b.ReportAllocs()
		before := cpu()
		b.ResetTimer()
		for range b.N {
			if _, err := r.Read(analyse); err != nil {
				return err
			}
		}
		b.StopTimer()
		b.ReportMetric(float64(cpu()-before)/float64(time.Millisecond)/float64(b.N), "cpu-ms/op")
		return nil
	})
}

// cpu returns the processor time that this process has used.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
