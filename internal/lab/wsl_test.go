package lab_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// What a container sends to the LAN leaves WSL by a source port of the block,
// because Windows knows no others.
func TestContainerPorts(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	standIn, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	const addr = "192.0.2.1:7000"
	from := make(chan netip.AddrPort, 2)
	if err := b.LAN.Do(func() error {
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		c, err := net.ListenPacket("udp4", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			if c, err := l.Accept(); err == nil {
				from <- netip.MustParseAddrPort(c.RemoteAddr().String())
				fmt.Fprintln(c, "LAN")
				c.Close()
			}
		}()
		go func() {
			if _, client, err := c.ReadFrom(make([]byte, 1500)); err == nil {
				from <- netip.MustParseAddrPort(client.String())
				c.WriteTo([]byte("LAN"), client)
			}
		}()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, proto := range []string{"tcp", "udp"} {
		if answer, err := standIn.Container.Ask(proto, addr, patience); err != nil || answer != "LAN" {
			t.Errorf("%s: answer %q, error %v", proto, answer, err)
			continue
		}
		if client := <-from; client.Addr().String() != "192.0.2.2" || client.Port() < b.FirstPort || client.Port() > b.LastPort {
			t.Errorf("%s from %s, want port %d-%d of 192.0.2.2", proto, client, b.FirstPort, b.LastPort)
		}
	}
}
