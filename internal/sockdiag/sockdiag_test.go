package sockdiag

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// Which sockets accept the first packet of an IPv4 client, according to the kernel.
func TestTakes(t *testing.T) {
	const bridge, lan, local = "172.17.0.1", "192.0.2.2", "127.0.0.1"
	all := []string{bridge, lan, local}
	b := labtest.New(t, lab.Options{})
	if err := b.AddBridge("docker0", netip.MustParsePrefix(bridge+"/16")); err != nil {
		t.Fatal(err)
	}
	docker0, err := b.WSL.Net.LinkByName("docker0")
	if err != nil {
		t.Fatal(err)
	}
	var server net.Listener // with clients connected to it
	if err := b.WSL.Do(func() (err error) {
		server, err = net.Listen("tcp4", lan+":8000")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	option := func(level, name, value int) func(*net.ListenConfig) {
		return func(c *net.ListenConfig) {
			c.Control = func(_, _ string, conn syscall.RawConn) (err error) {
				return errors.Join(conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) }), err)
			}
		}
	}
	bind := func(dev string) func(*net.ListenConfig) {
		return func(c *net.ListenConfig) {
			c.Control = func(_, _ string, conn syscall.RawConn) (err error) {
				return errors.Join(conn.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), dev) }), err)
			}
		}
	}
	onlyV6 := option(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	bothV6 := option(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	mptcp := func(c *net.ListenConfig) { c.SetMultipathTCP(true) }

	for name, test := range map[string]struct {
		network, addr string
		config        func(*net.ListenConfig)
		device        bool // accepts only what arrives on docker0
		at            []string
	}{
		"TCP, nothing":                 {},
		"TCP, any":                     {network: "tcp4", addr: "0.0.0.0:9000", at: all},
		"TCP, any, MPTCP":              {network: "tcp4", addr: "0.0.0.0:9000", config: mptcp, at: all},
		"TCP, the bridge":              {network: "tcp4", addr: bridge + ":9000", at: []string{bridge}},
		"TCP, the LAN":                 {network: "tcp4", addr: lan + ":9000", at: []string{lan}},
		"TCP, localhost":               {network: "tcp4", addr: local + ":9000", at: []string{local}},
		"TCP, another loopback":        {network: "tcp4", addr: "127.0.0.53:9000"},
		"TCP, another port":            {network: "tcp4", addr: "0.0.0.0:9001"},
		"TCP, both families":           {network: "tcp6", addr: "[::]:9000", config: bothV6, at: all},
		"TCP, IPv6 alone":              {network: "tcp6", addr: "[::]:9000", config: onlyV6},
		"TCP, localhost of IPv6":       {network: "tcp6", addr: "[::1]:9000"},
		"TCP, what comes by docker0":   {network: "tcp4", addr: "0.0.0.0:9000", config: bind("docker0"), device: true, at: []string{bridge, lan}},
		"UDP, any":                     {network: "udp4", addr: "0.0.0.0:9000", at: all},
		"UDP, the bridge":              {network: "udp4", addr: bridge + ":9000", at: []string{bridge}},
		"UDP, localhost":               {network: "udp4", addr: local + ":9000", at: []string{local}},
		"UDP, another port":            {network: "udp4", addr: "0.0.0.0:9001"},
		"UDP, both families":           {network: "udp6", addr: "[::]:9000", config: bothV6, at: all},
		"UDP, IPv6 alone":              {network: "udp6", addr: "[::]:9000", config: onlyV6},
		"UDP, what comes by docker0":   {network: "udp4", addr: "0.0.0.0:9000", config: bind("docker0"), device: true, at: []string{bridge, lan}},
		"TCP, connected, not a server": {network: "connect tcp4", addr: lan + ":9000"},
		"UDP, connected elsewhere":     {network: "connect udp4", addr: lan + ":9000"},
		"TCP, bound alone":             {network: "bind", addr: "0.0.0.0:9000"},
	} {
		t.Run(name, func(t *testing.T) {
			var conn *Conn
			err := b.WSL.Do(func() (err error) {
				if conn, err = Open(); err != nil {
					return err
				}
				t.Cleanup(conn.Close)
				var socket interface{ Close() error }
				var config net.ListenConfig
				config.SetMultipathTCP(false)
				if test.config != nil {
					test.config(&config)
				}
				switch network := test.network; network {
				case "":
					return nil
				case "connect tcp4":
					from, _ := net.ResolveTCPAddr("tcp4", test.addr)
					var c net.Conn
					if c, err = (&net.Dialer{LocalAddr: from}).Dial("tcp4", server.Addr().String()); err == nil {
						socket, err = c, c.(*net.TCPConn).SetLinger(0) // the next one needs the port
					}
				case "connect udp4":
					from, _ := net.ResolveUDPAddr("udp4", test.addr)
					socket, err = (&net.Dialer{LocalAddr: from}).Dial("udp4", "192.0.2.1:53")
				case "bind":
					var fd int
					if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
						return err
					}
					t.Cleanup(func() { unix.Close(fd) })
					return unix.Bind(fd, &unix.SockaddrInet4{Port: 9000})
				default:
					if network[:3] == "udp" {
						socket, err = config.ListenPacket(context.Background(), network, test.addr)
					} else {
						socket, err = config.Listen(context.Background(), network, test.addr)
					}
				}
				if err == nil {
					t.Cleanup(func() { socket.Close() })
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for name, proto := range map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP} {
				for _, at := range all {
					for _, link := range []int{0, docker0.Attrs().Index} {
						if test.device && at == local {
							continue // nothing arrives on docker0 there
						}
						want := strings.HasPrefix(test.network, name) && slices.Contains(test.at, at) && (!test.device || link != 0)
						got, err := conn.Takes(proto, netip.AddrPortFrom(netip.MustParseAddr(at), 9000), link)
						if err != nil || got != want {
							t.Errorf("%s %s, on link %d: %v, %v", name, at, link, got, err)
						}
					}
				}
			}
		})
	}
}

// Messages from the kernel are not trusted blindly.
func FuzzParseSocket(f *testing.F) {
	f.Add(byte(6), make([]byte, messageLen))
	f.Add(byte(17), append(make([]byte, messageLen), 5, 0, onlyV6, 0, 1, 0, 0, 0))
	f.Add(byte(6), append([]byte{10, 10}, make([]byte, messageLen)...))
	f.Add(byte(6), append(make([]byte, messageLen), 255, 255, onlyV6, 0))
	f.Fuzz(func(t *testing.T, proto byte, msg []byte) {
		if s, err := parseSocket(proto, msg); err == nil && (!s.Local.IsValid() || !s.Remote.IsValid()) {
			t.Errorf("%+v", s)
		}
	})
}

// Kernels that lack a part of what is requested.
func TestSocketsOfALesserKernel(t *testing.T) {
	for name, test := range map[string]struct {
		lacks func(family, proto byte) error
		n     int
		want  error
	}{
		"all":     {func(_, _ byte) error { return nil }, 4, nil},
		"no UDP":  {func(_, proto byte) error { return when(proto == unix.IPPROTO_UDP, unix.ENOENT) }, 2, ErrNoUDP},
		"no IPv6": {func(family, _ byte) error { return when(family == unix.AF_INET6, unix.ENOENT) }, 2, nil},
		"nothing": {func(_, _ byte) error { return unix.ENOENT }, 0, unix.ENOENT},
		"failing": {func(_, proto byte) error { return when(proto == unix.IPPROTO_UDP, unix.EIO) }, 0, unix.EIO},
	} {
		got, err := sockets(func(family, proto byte, each func(Socket)) error {
			if err := test.lacks(family, proto); err != nil {
				return err
			}
			each(Socket{})
			return nil
		})
		if len(got) != test.n || !errors.Is(err, test.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func when(is bool, err error) error {
	if is {
		return err
	}
	return nil
}

// A port of 127.0.0.1 is served if a program listens there or is connected to it.
func TestServing(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	for addr, h := range map[string]*lab.Host{
		"0.0.0.0:9000": b.WSL, "127.0.0.1:9001": b.WSL, "192.0.2.2:9002": b.WSL, "127.0.0.53:9003": b.WSL,
		"127.0.0.1:9004": b.Windows, "127.0.0.1:9005": b.Windows,
	} {
		if _, err := h.ServeEcho("tcp", addr); err != nil {
			t.Fatal(err)
		}
	}
	for _, to := range []string{"127.0.0.1:9004", "127.0.0.1:9000"} {
		c, err := b.WSL.Dial("tcp", "", to, labtest.Patience())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	var ports []uint16
	err := b.WSL.Do(func() error {
		conn, err := Open()
		if err != nil {
			return err
		}
		defer conn.Close()
		ports, err = conn.Serving()
		return err
	})
	if want := []uint16{9000, 9001, 9004}; err != nil || !slices.Equal(ports, want) {
		t.Errorf("%d, %v; want %d", ports, err, want)
	}
}
