package nft

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

// publishing writes rulesets that publish ports in the ways of the engines.
// Their ports do not touch, so that no two of them are one span.
var publishing = []struct {
	name, file string
	rules      func(ports []int) string
	kernel     bool // the kernel serves them, not a proxy
	direct     bool // they are sent past the proxy
}{{
	name: "docker", file: "docker.iptables", rules: docker,
}, {
	name: "docker-direct", file: "docker.iptables", rules: docker, direct: true,
}, {
	name: "netavark", file: "netavark.iptables", kernel: true,
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
	name: "map", file: "map.nft", kernel: true,
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

// docker is what Docker with its proxy writes for one container.
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

// What a change of the ruleset costs the daemon: to read all of it, to decode
// it, to walk it, to make our table of it and to compare that with what is
// there. cpu-ms/op counts the kernel's part and the garbage collector's.
func BenchmarkRead(b *testing.B) {
	bench := labtest.New(b, lab.Options{})
	link, err := bench.WSL.Net.LinkByName("loopback0")
	if err != nil {
		b.Fatal(err)
	}
	loopback := Iface{link.Attrs().Name, link.Attrs().Index}
	bridges := []Bridge{{Iface{"docker0", 1000}, []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}}}
	direct := func(v View) Targets {
		all := Targets{}
		for _, p := range v.Published {
			if p.Obstacle == "" {
				all[p.Port] = p.To
			}
		}
		return all
	}
	for _, style := range publishing {
		for _, n := range []int{10, 100, 1000, 5000} {
			b.Run(fmt.Sprintf("%s/%d", style.name, n), func(b *testing.B) {
				var ports []int
				for i := range n {
					ports = append(ports, 10000+2*i)
				}
				file := filepath.Join(b.TempDir(), style.file)
				if err := os.WriteFile(file, []byte(style.rules(ports)), 0o600); err != nil {
					b.Fatal(err)
				}
				load(b, bench.WSL, file)
				err := bench.WSL.Do(func() error {
					r, err := OpenReader()
					if err != nil {
						return err
					}
					defer r.Close()
					r.Forward = style.direct
					b.ReportAllocs()
					before := cpu()
					b.ResetTimer()
					for range b.N {
						r.Forget()
						state, rs, err := r.Read()
						if err != nil {
							return err
						}
						v := rs.View(loopback, bridges)
						spec := Spec{Index: loopback.Index, Kernel: v.Kernel, Repair: true}
						if style.direct {
							spec.Direct = direct(v)
						}
						table := spec.Table()
						if len(v.Published) != n || v.Kernel.Empty() == style.kernel || table.Equal(state.Table) ||
							style.direct && len(spec.Direct) != n {
							return fmt.Errorf("%d ports, %d of the kernel's", len(v.Published), v.Kernel.Len())
						}
					}
					b.StopTimer()
					b.ReportMetric(float64(cpu()-before)/float64(time.Millisecond)/float64(b.N), "cpu-ms/op")
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
