package conntrack

import (
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/nlconn"
)

var update = flag.Bool("update", false, "record the flows of this machine's kernel")

const flowsFile = "testdata/flows.hex"

// recorded returns messages of a kernel: see TestKernel.
func recorded(tb testing.TB) (msgs [][]byte) {
	tb.Helper()
	text, err := os.ReadFile(flowsFile)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		b, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			tb.Fatal(err)
		}
		msgs = append(msgs, b)
	}
	return msgs
}

// show formats a flow in one line.
func show(f Flow) string {
	return fmt.Sprintf("%d %v>%v %v>%v mark %#x assured %v", f.Original.Proto, f.Original.Src, f.Original.Dst, f.Reply.Src, f.Reply.Dst, f.Mark, f.Assured)
}

// The flows that the tests create, sorted.
var flows = []string{
	"1 127.0.0.1:0>127.0.0.1:0 127.0.0.1:0>127.0.0.1:0 mark 0x0 assured false",
	"17 127.0.0.1:4000>127.0.0.1:9000 127.0.0.1:9000>127.0.0.1:4000 mark 0x0 assured false",
	"17 127.0.0.1:4001>127.0.0.1:9001 127.0.0.1:9001>127.0.0.1:4001 mark 0x0 assured false",
	"6 172.17.0.2:4000>203.0.113.1:443 203.0.113.1:443>192.0.2.2:60700 mark 0x1001 assured false",
}

func TestDecode(t *testing.T) {
	var got []string
	for _, msg := range recorded(t) {
		f, err := decode(msg)
		if err != nil {
			t.Errorf("%x: %v", msg, err)
		}
		got = append(got, show(f))
	}
	slices.Sort(got)
	if !slices.Equal(got, flows) {
		t.Errorf("decoded\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(flows, "\n"))
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	msgs := recorded(t)
	if n := testing.AllocsPerRun(100, func() {
		for _, msg := range msgs {
			_, _ = decode(msg)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Messages from the kernel are trusted, but no bytes may crash the daemon.
func FuzzDecode(f *testing.F) {
	for _, msg := range recorded(f) {
		f.Add(msg)
		f.Add(msg[:len(msg)/2])
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		flow, err := decode(msg)
		if err != nil {
			return
		}
		for _, a := range []netip.AddrPort{flow.Original.Src, flow.Original.Dst, flow.Reply.Src, flow.Reply.Dst} {
			if !a.Addr().Is4() {
				t.Errorf("%s", show(flow))
			}
		}
	})
}

// create makes an entry without sending a packet, like that of a container's connection
// that WSL masquerades.
func create(handle *netlink.Handle, proto uint8, src, dst, replyTo string) error {
	s, d, r := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst), netip.MustParseAddrPort(replyTo)
	ip := func(a netip.AddrPort) net.IP { return a.Addr().AsSlice() }
	f := &netlink.ConntrackFlow{
		FamilyType: unix.AF_INET, TimeOut: 600, Mark: 0x1001,
		Forward: netlink.IPTuple{Protocol: proto, SrcIP: ip(s), DstIP: ip(d), SrcPort: s.Port(), DstPort: d.Port()},
		Reverse: netlink.IPTuple{Protocol: proto, SrcIP: ip(d), DstIP: ip(r), SrcPort: d.Port(), DstPort: r.Port()},
	}
	if proto == unix.IPPROTO_TCP {
		f.ProtoInfo = &netlink.ProtoInfoTCP{State: 3}
	}
	return handle.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, f)
}

// tracker returns a handle in WSL, where conntrack has no flows.
func tracker(tb testing.TB) (b *lab.Bench, handle *netlink.Handle) {
	tb.Helper()
	b = labtest.New(tb, lab.Options{})
	err := b.WSL.Do(func() (err error) {
		if handle, err = netlink.NewHandle(unix.NETLINK_NETFILTER); err == nil {
			err = handle.ConntrackTableFlush(netlink.ConntrackTable)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(handle.Close)
	return b, handle
}

// A connection is assured when both ends have sent packets. A request without an answer
// is not.
func TestAssured(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	if _, err := b.WSL.ServeEcho("tcp", "127.0.0.2:9000"); err != nil {
		t.Fatal(err)
	}
	for proto, to := range map[string]string{"tcp": "127.0.0.2:9000", "udp": "127.0.0.2:9001"} {
		c, err := b.WSL.Dial(proto, "", to, labtest.Patience())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Ask(labtest.Patience()); (err == nil) != (proto == "tcp") {
			t.Fatalf("%s: %v", proto, err)
		}
	}
	got := map[uint16]bool{}
	if err := b.WSL.Do(func() error {
		return Each(func(f Flow) bool {
			got[f.Original.Dst.Port()] = f.Assured
			return true
		})
	}); err != nil {
		t.Fatal(err)
	}
	if want := map[uint16]bool{9000: true, 9001: false}; !maps.Equal(got, want) {
		t.Errorf("assured: %v, want %v", got, want)
	}
}

// The kernel's flows are listed. Flows that match are evicted, and no others. With
// -update the messages are recorded.
func TestKernel(t *testing.T) {
	b, handle := tracker(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// Three that packets have started: one of them without ports, one with NAT.
	must(b.WSL.Do(func() error {
		for i := range 2 {
			c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4000 + i}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9000 + i})
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Write([]byte("x")); err != nil {
				return err
			}
		}
		return nil
	}))
	must(create(handle, unix.IPPROTO_TCP, "172.17.0.2:4000", "203.0.113.1:443", "192.0.2.2:60700"))
	must(b.WSL.Do(func() error {
		c, err := net.Dial("ip4:icmp", "127.0.0.1")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}) // an echo request and its checksum
		return err
	}))
	list := func() (got []string) {
		t.Helper()
		must(b.WSL.Do(func() error {
			return Each(func(f Flow) bool {
				got = append(got, show(f))
				return true
			})
		}))
		slices.Sort(got)
		return got
	}
	expect := func(want ...string) {
		t.Helper()
		if got := list(); !slices.Equal(got, want) {
			t.Fatalf("there are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	evict := func(want int, match func(Flow) bool) {
		t.Helper()
		must(b.WSL.Do(func() error {
			if n, err := Evict(match); err != nil || n != want {
				return fmt.Errorf("evicted %d, %w; want %d", n, err, want)
			}
			return nil
		}))
	}
	expect(flows...)
	if *update {
		must(b.WSL.Do(record))
	}
	must(b.WSL.Do(func() error { // stop after the first
		n := 0
		if err := Each(func(Flow) bool { n++; return false }); err != nil || n != 1 {
			return fmt.Errorf("%d flows, %w", n, err)
		}
		return nil
	}))
	evict(0, func(Flow) bool { return false })
	expect(flows...)
	evict(1, func(f Flow) bool { return f.Original.Dst == netip.MustParseAddrPort("127.0.0.1:9000") })
	evict(1, func(f Flow) bool { return f.Original.Src.Addr() != f.Reply.Dst.Addr() })
	expect(flows[0], flows[2])
	evict(2, func(Flow) bool { return true })
	expect()
}

// record writes the kernel's messages to a file.
func record() error {
	c, err := nlconn.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer c.Close()
	msgs, err := c.Dump(msgGet, ipv4[:])
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, msg := range msgs {
		text.WriteString(hex.EncodeToString(msg) + "\n")
	}
	return os.WriteFile(flowsFile, []byte(text.String()), 0o644)
}

// The time for each of many flows when none is of interest, compared with the library.
func BenchmarkFlows(b *testing.B) {
	const n = 10_000
	bench, handle := tracker(b)
	for i := range n {
		src := fmt.Sprintf("172.17.%d.%d:%d", i/250, 1+i%250, 4000)
		if err := create(handle, unix.IPPROTO_UDP, src, "203.0.113.1:443", src); err != nil {
			b.Fatal(err)
		}
	}
	for _, way := range []struct {
		name string
		read func() (int, error)
	}{
		{"here", func() (seen int, err error) {
			_, err = Evict(func(Flow) bool { seen++; return false })
			return seen, err
		}},
		{"library", func() (int, error) {
			list, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
			return len(list), err
		}},
	} {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			err := bench.WSL.Do(func() error {
				for b.Loop() {
					if seen, err := way.read(); err != nil || seen < n {
						return fmt.Errorf("%d flows, %w", seen, err)
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/flow")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	msg := recorded(b)[0]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode(msg); err != nil {
			b.Fatal(err)
		}
	}
}
