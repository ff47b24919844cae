package e2e

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// A container that forges packets reaches nothing on 127.0.0.0/8, neither in Linux nor in
// Windows, but the published ports still work. Where containers may reach one port of
// Windows, they reach no other.
func TestGuard(t *testing.T) {
	for _, path := range []string{status.PathProxy, status.PathDirect} {
		t.Run(path, func(t *testing.T) { testGuard(t, path, false) })
		t.Run(path+", and a port of Windows", func(t *testing.T) { testGuard(t, path, true) })
	}
}

func testGuard(t *testing.T, path string, toWindows bool) {
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Publish("tcp", "0.0.0.0:8080"); err != nil {
		t.Fatal(err)
	}
	// An engine without a proxy does this to its bridge, and so do we with the direct path.
	if err := b.WSL.Sysctl("ipv4/conf/docker0/route_localnet", "1"); err != nil {
		t.Fatal(err)
	}
	forge(t, engine.Container)

	heard := make(chan string, 100)
	listen := func(h *lab.Host, addr string) {
		t.Helper()
		err := h.Do(func() error {
			c, err := net.ListenPacket("udp4", addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				buf := make([]byte, 100)
				for {
					n, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					heard <- h.Name + " heard " + string(buf[:n]) + " from " + from.(*net.UDPAddr).IP.String()
				}
			}()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	listen(b.WSL, "0.0.0.0:9000")
	listen(b.Windows, "0.0.0.0:9001")
	listen(b.Windows, "0.0.0.0:9002") // the port that containers may reach
	mayReach := []string{"172.17.0.1:9000", "172.17.0.1:9002", "192.0.2.2:9002"}
	// send makes the container send from each address that it can claim.
	send := func() (got []string) {
		t.Helper()
		for _, from := range []string{engine.Addr.String(), "127.0.0.1"} {
			for _, to := range append(mayReach,
				"127.0.0.1:9000", "127.0.0.2:9000", "127.0.0.1:9001", "127.0.0.1:9002", "172.17.0.1:9001", "192.0.2.2:9001") {
				if from != "127.0.0.1" && slices.Contains(mayReach, to) {
					continue
				}
				sendPacket(t, engine.Container, from, to, to)
			}
		}
		// Send the allowed packet last: when it has arrived, no other packet is under way.
		const end = "the end"
		sendPacket(t, engine.Container, engine.Addr.String(), "172.17.0.1:9000", end)
		sendPacket(t, b.WSL, "", "127.0.0.1:9001", end)
		for last := 0; last < 2; {
			if h := labtest.Receive(t, "the last packets are heard", heard); strings.Contains(h, " heard "+end) {
				last++
			} else {
				got = append(got, h)
			}
		}
		return got
	}
	if got := send(); len(got) == 0 {
		t.Fatal("nothing is heard without wslmirror, so nothing is tested")
	} else {
		t.Logf("without wslmirror: %q", got)
	}
	if path == status.PathDirect {
		if err := b.WSL.Sysctl("ipv4/conf/docker0/route_localnet", "0"); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"--path", path}
	if toWindows {
		args = append(args, "--to-windows", "9002/udp")
	}
	d := start(t, b.WSL, args...)
	d.await("path "+path, func(s status.Snapshot) bool { return len(s.Ports) == 1 && s.Ports[0].Path == path })
	if got := send(); len(got) != 0 {
		t.Errorf("with wslmirror: %q", got)
	}
	for _, client := range []*lab.Host{b.Windows, b.WSL} {
		if got, err := client.Ask("tcp", "127.0.0.1:8080", patience); got != engine.Container.Name {
			t.Errorf("%s to the published port: %q, %v", client.Name, got, err)
		}
	}

	if path == status.PathDirect || toWindows {
		if got := routeLocalnet(t, b.WSL, "docker0"); got != "1" {
			t.Errorf("route_localnet of docker0 is %s", got)
		}
	}
	if toWindows {
		for _, to := range mayReach[1:] {
			sendPacket(t, engine.Container, engine.Addr.String(), to, to)
			if got, want := labtest.Receive(t, to+" is heard", heard), "Windows heard "+to+" from 127.0.0.1"; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	}
	if path == status.PathDirect {
		return
	}
	// There is no event when a bridge begins to let such packets pass, and certainly none
	// when all links do.
	for _, link := range []string{"docker0", "all"} {
		if err := b.WSL.Sysctl("ipv4/conf/docker0/route_localnet", "0"); err != nil {
			t.Fatal(err)
		}
		d.status() // starts a pass
		if err := b.WSL.Sysctl("ipv4/conf/"+link+"/route_localnet", "1"); err != nil {
			t.Fatal(err)
		}
		if got := send(); len(got) != 0 {
			t.Errorf("after route_localnet of %s came: %q", link, got)
		}
	}
}

// sendPacket sends a UDP packet, from an address of the host or from any other.
func sendPacket(t *testing.T, h *lab.Host, from, to, text string) {
	t.Helper()
	err := h.Do(func() error {
		var d net.Dialer
		if from != "" {
			d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
		}
		c, err := d.Dial("udp4", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte(text))
		return err
	})
	if err != nil {
		t.Fatalf("%s to %s: %v", from, to, err)
	}
}

// forge makes a container send forbidden packets: to 127.0.0.0/8 through its gateway, and
// from 127.0.0.1.
func forge(t *testing.T, container *lab.Host) {
	t.Helper()
	links, err := container.Net.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Attrs().Name == "lo" {
			continue
		}
		// Remove the kernel's own routes for 127.0.0.0/8 in favour of the gateway.
		lo, err := container.Net.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		addrs, err := container.Net.AddrList(lo, unix.AF_INET)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if err := container.Net.AddrDel(lo, &a); err != nil {
				t.Fatal(err)
			}
		}
		if err := container.Net.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(32, 32)}}); err != nil {
			t.Fatal(err)
		}
		if err := container.Sysctl("ipv4/conf/"+l.Attrs().Name+"/route_localnet", "1"); err != nil {
			t.Fatal(err)
		}
		if _, err := container.Run("ip", "rule", "add", "pref", "0", "to", "127.0.0.0/8", "lookup", "100"); err != nil {
			t.Fatal(err)
		}
		if _, err := container.Run("ip", "rule", "del", "pref", "0", "lookup", "local"); err != nil {
			t.Fatal(err)
		}
		if _, err := container.Run("ip", "rule", "add", "pref", "1", "lookup", "local"); err != nil {
			t.Fatal(err)
		}
		if _, err := container.Run("ip", "route", "add", "127.0.0.0/8", "via", "172.17.0.1", "table", "100"); err != nil {
			t.Fatal(err)
		}
	}
}
