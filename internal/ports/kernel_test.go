package ports_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/ports"
)

// A server on the bench's LAN.
const server = "192.0.2.1:7000"

// newBench makes a bench with servers on the LAN and the given block of source ports.
func newBench(t *testing.T, first, last uint16, reserved string) *lab.Bench {
	t.Helper()
	b := labtest.New(t, lab.Options{})
	for key, value := range map[string]string{
		"ipv4/ip_local_port_range":     fmt.Sprintf("%d %d", first, last),
		"ipv4/ip_local_reserved_ports": reserved,
	} {
		if err := b.WSL.Sysctl(key, value); err != nil {
			t.Fatal(err)
		}
	}
	for _, proto := range []string{"tcp", "udp"} {
		for _, port := range []string{"7000", "7001"} {
			if _, err := b.LAN.ServeEcho(proto, "192.0.2.1:"+port); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b
}

// connect opens a connection from h that stays open until the test ends. It returns the
// source port, or 0 if there is none left.
func connect(t *testing.T, h *lab.Host, proto, to string) (port uint16) {
	t.Helper()
	err := h.Do(func() error {
		c, err := net.Dial(proto+"4", to)
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAGAIN) { // the errors of connect() for TCP and UDP
			return nil
		}
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		port = netip.MustParseAddrPort(c.LocalAddr().String()).Port()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func readBlock(t *testing.T, h *lab.Host) (b ports.Block) {
	t.Helper()
	err := h.Do(func() (err error) {
		b, err = ports.ReadBlock(ports.Range{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The reported headroom is what the kernel really provides. Connections to one
// destination first get all ports with the parity of the low end, then the others,
// never a reserved one, and then none.
func TestHeadroom(t *testing.T) {
	tests := map[string]struct {
		first, last uint16
		reserved    string
	}{
		"even low":         {60700, 60719, ""},
		"odd low":          {60701, 60720, ""},
		"odd size":         {60700, 60720, ""},
		"reserved":         {60700, 60719, "8080,60704,60711-60713,60719-60800"},
		"odd, reserved":    {60701, 60712, "60703,60705"},
		"parity reserved":  {60700, 60705, "60700,60702,60704"},
		"one port":         {60700, 60700, ""},
		"reserved, at end": {60701, 60709, "60709"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, test.first, test.last, test.reserved)
			empty := readBlock(t, b.WSL)
			if empty.TCP != 0 || empty.Worst.Used != 0 || empty.First != test.first || empty.Last != test.last {
				t.Fatalf("at rest: %+v", empty)
			}
			var came []uint16
			for {
				port := connect(t, b.WSL, "tcp", server)
				if port == 0 {
					break
				}
				if empty.IsReserved(port) || !empty.Contains(port) || slices.Contains(came, port) {
					t.Fatalf("after %d came %d", came, port)
				}
				came = append(came, port)
				now := readBlock(t, b.WSL)
				if n := len(came); now.TCP != n || now.Worst.Used != n || now.Worst.Destination.String() != server ||
					now.Worst.Of != empty.Usable || now.FirstPassLeft() != max(0, empty.FirstPass-n) {
					t.Fatalf("after %d ports: %+v", n, now)
				}
			}
			// Check in which pass each port was found. With an odd size, the port that
			// a search leaves out may come later or never.
			odd := empty.Size() > 1 && empty.Size()%2 == 1
			for i, port := range came {
				firstPass := port%2 == test.first%2
				if i < empty.FirstPass && !firstPass || i >= empty.FirstPass && firstPass && !odd {
					t.Errorf("%d ports are shown for the first pass, and of %d came: %d", empty.FirstPass, empty.First, came)
					break
				}
			}
			if n := len(came) - empty.Usable; n != 0 && !(odd && n == 1) {
				t.Errorf("%d ports are shown as usable, and %d came: %d", empty.Usable, len(came), came)
			}
			// Another destination can use all ports again.
			if port := connect(t, b.WSL, "tcp", "192.0.2.1:7001"); port == 0 {
				t.Error("no port to another destination")
			}
		})
	}
}

// UDP uses a port for all destinations.
func TestHeadroomUDP(t *testing.T) {
	b := newBench(t, 60700, 60710, "60704")
	empty := readBlock(t, b.WSL)
	var came int
	for connect(t, b.WSL, "udp", server) != 0 {
		came++
	}
	if port := connect(t, b.WSL, "udp", "192.0.2.1:7001"); port != 0 {
		t.Errorf("and %d to another destination", port)
	}
	if b := readBlock(t, b.WSL); b.UDP != came || b.Worst.Proto != "udp" || b.Worst.Used != came || b.Worst.Destination.IsValid() {
		t.Errorf("%d ports came: %+v", came, b)
	}
	if came != empty.UsableUDP {
		t.Errorf("%d are shown as usable, and %d came", empty.UsableUDP, came)
	}
}

// A container's connection uses a port of the block that no socket has.
func TestContainersAreCounted(t *testing.T) {
	b := newBench(t, 60700, 60999, "")
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	before := readBlock(t, b.WSL)
	if port := connect(t, engine.Container, "tcp", server); port == 0 {
		t.Fatal("the container gets no connection")
	}
	connect(t, b.WSL, "tcp", server)
	if got := readBlock(t, b.WSL); !got.Containers || got.TCP != before.TCP+2 || got.Worst.Used != 2 || got.Worst.Destination.String() != server {
		t.Errorf("%+v", got)
	}
}

func TestListeners(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	openAs := func(proto, kind int, port int, listen bool, v6only int) {
		t.Helper()
		err := b.WSL.Do(func() error {
			family, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
			if v6only >= 0 {
				family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: port}
			}
			s, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
			if err != nil {
				return err
			}
			t.Cleanup(func() { unix.Close(s) })
			if v6only >= 0 {
				err = unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v6only)
			}
			if err == nil {
				err = unix.Bind(s, addr)
			}
			if err == nil && listen {
				err = unix.Listen(s, 1)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func(kind int, port int, listen bool, v6only int) { openAs(0, kind, port, listen, v6only) }
	open(unix.SOCK_STREAM, 8080, true, -1)
	open(unix.SOCK_STREAM, 8081, false, -1)
	open(unix.SOCK_STREAM, 8082, true, 0)
	open(unix.SOCK_STREAM, 8083, true, 1)
	openAs(unix.IPPROTO_MPTCP, unix.SOCK_STREAM, 8084, true, -1)
	open(unix.SOCK_DGRAM, 5353, false, -1)

	var got []ports.Listener
	err := b.WSL.Do(func() (err error) {
		got, err = ports.Listeners()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	name := string(comm[:len(comm)-1])
	l := func(proto, addr string) ports.Listener {
		return ports.Listener{Proto: proto, Addr: netip.MustParseAddrPort(addr), Program: name, PID: os.Getpid()}
	}
	bound, only6, mptcp := l("tcp", "127.0.0.1:8081"), l("tcp", "[::]:8083"), l("tcp", "127.0.0.1:8084")
	bound.Bound, only6.OnlyV6, mptcp.MPTCP = true, true, true
	want := []ports.Listener{l("udp", "127.0.0.1:5353"), l("tcp", "127.0.0.1:8080"), bound, l("tcp", "[::]:8082"), only6, mptcp}
	if !slices.Equal(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

// A port in TIME_WAIT counts exactly if connect() does not reuse it.
func TestTimeWait(t *testing.T) {
	for reuse, again := range map[string]bool{"0": false, "1": true, "2": false} { // 2: only over loopback
		t.Run(reuse, func(t *testing.T) {
			b := newBench(t, 60700, 60700, "")
			if err := b.WSL.Sysctl("ipv4/tcp_tw_reuse", reuse); err != nil {
				t.Fatal(err)
			}
			err := b.WSL.Do(func() error {
				c, err := net.Dial("tcp4", server)
				if err != nil {
					return err
				}
				return c.Close()
			})
			if err != nil {
				t.Fatal(err)
			}
			left, port := 1, uint16(0)
			for end := time.Now().Add(labtest.Patience()); time.Now().Before(end) && port == 0; time.Sleep(100 * time.Millisecond) {
				left = readBlock(t, b.WSL).TCP
				if port = connect(t, b.WSL, "tcp", server); !again {
					break
				}
			}
			if (port != 0) != again || (left == 0) != again {
				t.Errorf("%d ports are shown as taken, and then %d came", left, port)
			}
		})
	}
}
