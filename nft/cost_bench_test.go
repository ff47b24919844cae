package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// BenchmarkPacket measures what each feature costs per packet, in nanoseconds added to
// the time without a table. It measures all in turn and takes the fastest of many
// rounds of each, because on a virtual machine the slower ones measure the neighbours.
func BenchmarkPacket(b *testing.B) {
	for _, way := range []struct {
		name string
		open func(testing.TB, *lab.Bench) (send func() error)
	}{
		{"to the LAN", toLAN}, {"a segment to 127.0.0.1", toLoopback0}, {"from the LAN", fromLAN},
	} {
		b.Run(strings.ReplaceAll(way.name, " ", "_"), func(b *testing.B) {
			bench := labtest.New(b, lab.Options{NoLoopback0: true})
			index := addLoopback0(b, bench.WSL, bench.Windows)
			features := []struct {
				name string
				spec *Spec
			}{
				{"none", nil},
				{"mirror", &Spec{}},
				{"repair", &Spec{Repair: true}},
				{"replies", &Spec{Repair: true, Replies: true}},
				{"refuse", &Spec{Repair: true, Refuse: true}},
				{"to-windows", &Spec{Repair: true, ToWindows: &ToWindows{
					Ports: ports(11434, 11434), Links: []string{"docker0"}, Addrs: addrs("192.0.2.2"), First: 60700, Last: 60999,
				}}},
				{"except", &Spec{Repair: true, Refuse: true, Except: ports(22, 22)}},
			}
			send := way.open(b, bench)
			took := map[string][]float64{}
			rounds := 101
			if testing.Short() { // to see that it runs
				rounds = 1
			}
			for range rounds {
				for _, f := range features {
					took[f.name] = append(took[f.name], float64(withTable(b, bench.WSL, index, f.spec, send).Nanoseconds())/packets)
				}
			}
			b.ReportMetric(0, "ns/op") // the benchmark's own time means nothing
			none := slices.Min(took["none"])
			b.ReportMetric(none, "ns-none")
			for _, f := range features[1:] {
				b.ReportMetric(slices.Min(took[f.name])-none, "ns-more-"+f.name)
			}
		})
	}
}

const packets = 5000

// withTable returns how long sending packets takes while the table is installed.
func withTable(b *testing.B, h *lab.Host, index int, s *Spec, send func() error) (took time.Duration) {
	b.Helper()
	if s != nil {
		spec := *s
		spec.Index, spec.Guarded = index, []string{"docker0"}
		owner := install(b, h, spec.Table())
		defer owner.Close()
	}
	for range packets / 10 { // warm up
		if err := send(); err != nil {
			b.Fatal(err)
		}
	}
	began := time.Now()
	for range packets {
		if err := send(); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began)
}

// addLoopback0 adds a loopback0 whose other end has no address. Packets for 127.0.0.1
// leave through it.
func addLoopback0(b *testing.B, h, other *lab.Host) (index int) {
	b.Helper()
	err := h.Net.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "loopback0"}, PeerName: "peer", PeerNamespace: netlink.NsFd(other.NetNS()),
	})
	if err != nil {
		b.Fatal(err)
	}
	link, err := h.Net.LinkByName("loopback0")
	if err == nil {
		err = h.Net.LinkSetUp(link)
	}
	peer, peerErr := other.Net.LinkByName("peer")
	if peerErr == nil {
		peerErr = other.Net.LinkSetUp(peer)
	}
	if err := errors.Join(err, peerErr); err != nil {
		b.Fatal(err)
	}
	for _, args := range [][]string{
		{"neighbour", "add", "192.0.2.99", "lladdr", "00:11:22:33:44:55", "nud", "permanent", "dev", "loopback0"},
		{"route", "add", "127.0.0.1", "via", "192.0.2.99", "dev", "loopback0", "onlink", "table", "127"},
		{"rule", "add", "pref", "1", "ipproto", "tcp", "lookup", "127"},
		{"rule", "add", "pref", "2", "lookup", "local"},
		{"rule", "del", "pref", "0", "lookup", "local"},
	} {
		if out, err := h.Run("ip", args...); err != nil {
			b.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	return link.Attrs().Index
}

func toLAN(t testing.TB, b *lab.Bench) func() error { return between(t, b.WSL, b.LAN, "192.0.2.1:9") }

func fromLAN(t testing.TB, b *lab.Bench) func() error { return between(t, b.LAN, b.WSL, "192.0.2.2:9") }

// between sends to a socket that nobody reads. Its buffer is soon full.
func between(t testing.TB, from, to *lab.Host, addr string) func() error {
	err := to.Do(func() error {
		c, err := net.ListenPacket("udp4", addr)
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c := dialTo(t, from, "udp4", addr)
	return func() error {
		_, err := c.Write([]byte("x"))
		return err
	}
}

// toLoopback0 sends segments of a long-established TCP connection.
func toLoopback0(t testing.TB, b *lab.Bench) func() error {
	segment := make([]byte, 20)
	segment[0], segment[1] = 0x90, 0 // the source port
	segment[3], segment[12], segment[tcpFlags] = 80, 5<<4, ack
	to := &unix.SockaddrInet4{Addr: netip.MustParseAddr("127.0.0.1").As4()}
	var fd int
	err := b.WSL.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func() error { return unix.Sendto(fd, segment, 0, to) }
}

func dialTo(t testing.TB, h *lab.Host, network, to string) (c net.Conn) {
	t.Helper()
	err := h.Do(func() (err error) {
		c, err = net.Dial(network, to)
		return err
	})
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", to, err))
	}
	t.Cleanup(func() { c.Close() })
	return c
}
