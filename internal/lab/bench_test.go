package lab_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

var protos = []string{"tcp", "udp"}

// The ports of the servers without a container.
const (
	linuxPort   = "127.0.0.1:9000"
	windowsPort = "127.0.0.1:9001"
)

func serve(t *testing.T, h *lab.Host, addr string) {
	t.Helper()
	for _, proto := range protos {
		if _, err := h.ServeEcho(proto, addr); err != nil {
			t.Fatal(err)
		}
	}
}

// expect has a client ask by TCP and UDP at once, and wants the answer, or
// hangs.
func expect(t *testing.T, client *lab.Host, addr, want string) {
	t.Helper()
	var asking sync.WaitGroup
	for _, proto := range protos {
		asking.Go(func() {
			// A link that has just come up may lose a datagram.
			tries, wait := 5, patience/5
			if want == hangs {
				tries, wait = 1, silence
			}
			var answer string
			err := os.ErrDeadlineExceeded
			for ; tries > 0 && errors.Is(err, os.ErrDeadlineExceeded); tries-- {
				answer, err = client.Ask(proto, addr, wait)
			}
			switch {
			case want == hangs && errors.Is(err, os.ErrDeadlineExceeded):
			case want == hangs || err != nil || answer != want:
				t.Errorf("%s to %s %s: answer %q, error %v, want %s", client.Name, proto, addr, answer, err, want)
			}
		})
	}
	asking.Wait()
}

func TestPlainServers(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	serve(t, b.WSL, linuxPort)
	serve(t, b.Windows, windowsPort)
	returned := func() uint64 {
		t.Helper()
		n, err := b.Returned()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	// In this order: of a connection of Linux to itself the last packets may come
	// when it is over.
	before := returned()
	expect(t, b.WSL, windowsPort, "Windows")
	expect(t, b.Windows, linuxPort, "WSL")
	if n := returned() - before; n != 0 {
		t.Errorf("Windows returned %d packets of connections to and from itself", n)
	}
	before = returned()
	expect(t, b.WSL, linuxPort, "WSL")
	// The SYN and the datagram by the port, and their answers by the block.
	if n := returned() - before; n < 4 {
		t.Errorf("Windows returned %d packets: Linux did not reach itself through Windows", n)
	}

	serve(t, b.LAN, "0.0.0.0:80")
	expect(t, b.WSL, "192.0.2.1:80", "LAN")
	serve(t, b.WSL, "0.0.0.0:8000")
	expect(t, b.LAN, "192.0.2.2:8000", "WSL")
	expect(t, b.WSL, "192.0.2.2:8000", "WSL") // out by eth0 and in again
}

// Windows learns of the ports of Linux without a client of the bench's own.
func TestWindowsFollows(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	serve(t, b.WSL, linuxPort)
	labtest.Eventually(t, "Windows knows the port", func() bool {
		_, err := b.WSL.Run("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9000")
		return err == nil
	})
	if n, err := b.Returned(); err != nil || n == 0 {
		t.Errorf("Windows returned %d packets, error %v", n, err)
	}
}

// A packet to the LAN meets what one to Windows meets, and goes on.
func TestLevelLAN(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	if err := b.LevelLAN(); err != nil {
		t.Fatal(err)
	}
	meets := func(h *lab.Host, names ...string) string {
		t.Helper()
		chain, err := h.Run("nft", "--stateless", "list", "chain", "ip", "mirror", "ingress")
		if err != nil {
			t.Fatal(err)
		}
		rules, err := h.Run("ip", "rule")
		if err != nil {
			t.Fatal(err)
		}
		return strings.NewReplacer(names...).Replace(chain + rules)
	}
	lan := meets(b.LAN, "eth0", "vEthernet", "192.0.2.1", "127.0.0.1", "\t\tip daddr 192.0.2.2 goto hairpin\n", "")
	if windows := meets(b.Windows); lan != windows {
		t.Errorf("to Windows\n%s\nto the LAN\n%s", windows, lan)
	}
	for _, key := range []string{"ip_local_port_range", "conf/all/rp_filter", "conf/%s/rp_filter", "conf/%s/accept_local"} {
		windows, err := b.Windows.GetSysctl("ipv4/" + strings.Replace(key, "%s", "vEthernet", 1))
		if err != nil {
			t.Fatal(err)
		}
		lan, err := b.LAN.GetSysctl("ipv4/" + strings.Replace(key, "%s", "eth0", 1))
		if err != nil || lan != windows {
			t.Errorf("%s: Windows has %s, the LAN %s, %v", key, windows, lan, err)
		}
	}
	startStandIn(t, b)
	for _, proto := range []string{"tcp", "udp"} {
		if answer, err := b.LAN.Ask(proto, "192.0.2.2:8080", patience); err != nil || answer != "container" {
			t.Errorf("LAN to the container, %s: answer %q, error %v", proto, answer, err)
		}
	}
	serve(t, b.WSL, "0.0.0.0:8000")
	expect(t, b.WSL, "192.0.2.2:8000", "WSL")
}

func TestOptions(t *testing.T) {
	b := labtest.New(t, lab.Options{Ports: 10})
	if b.LastPort-b.FirstPort != 9 {
		t.Errorf("the block is %d-%d, want 10 ports", b.FirstPort, b.LastPort)
	}
	if got, err := b.WSL.GetSysctl("ipv4/ip_local_port_range"); err != nil || got != fmt.Sprintf("%d\t%d", b.FirstPort, b.LastPort) {
		t.Errorf("ip_local_port_range is %q, error %v", got, err)
	}
	serve(t, b.Windows, windowsPort)
	for range 10 {
		c, err := b.WSL.Dial("tcp", "", windowsPort, patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if _, err := b.WSL.Dial("tcp", "", windowsPort, patience); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("the eleventh connection: error %v, want %v", err, syscall.EADDRNOTAVAIL)
	}
	for _, ports := range []int{-1, 4837} {
		if b, err := lab.New(lab.Options{Ports: ports}); err == nil {
			t.Errorf("a block of %d ports is accepted", ports)
			b.Close()
		}
	}
}

// Two benches have the same addresses and ports and do not meet.
func TestSideBySide(t *testing.T) {
	a, b := labtest.New(t, lab.Options{}), labtest.New(t, lab.Options{})
	startStandIn(t, a)
	startStandIn(t, b)
	serve(t, a.WSL, linuxPort)
	serve(t, b.Windows, linuxPort)
	expect(t, a.Windows, linuxPort, "WSL")
	expect(t, b.WSL, linuxPort, "Windows")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	expect(t, b.WSL, linuxPort, "Windows")
	expect(t, b.WSL, "127.0.0.1:8080", "container")
}
