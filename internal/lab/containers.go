package lab

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
)

// The parts of a container engine, for benches whose containers and ports come
// and go.

// AddBridge makes a bridge in WSL, with the address that its containers have as
// their gateway.
func (b *Bench) AddBridge(name string, addr netip.Prefix) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := b.WSL.Net.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	return addAddress(b.WSL, name, addr)
}

// AddContainer makes a host that answers with its name on TCP and UDP port 80,
// and is joined to no bridge yet.
func (b *Bench) AddContainer(name string) (*Host, error) {
	c, err := b.addHost(name)
	if err != nil {
		return nil, err
	}
	addr := netip.AddrPortFrom(netip.IPv4Unspecified(), containerPort).String()
	for _, proto := range []string{"tcp", "udp"} {
		if _, err := c.ServeEcho(proto, addr); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Plug joins a container to a bridge by a new pair of links, of which WSL's has
// the name veth.
func (b *Bench) Plug(c *Host, veth, bridge string, addr netip.Prefix, gateway netip.Addr) error {
	// Docker makes the container's MAC address out of its address.
	mac := append(net.HardwareAddr{0x02, 0x42}, addr.Addr().AsSlice()...)
	if err := connect(b.WSL, veth, nil, c, eth0, mac); err != nil {
		return err
	}
	if err := addAddress(c, eth0, addr); err != nil {
		return err
	}
	master, err := b.WSL.Net.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("join %s to %s: %w", veth, bridge, err)
	}
	port, err := b.WSL.Net.LinkByName(veth)
	if err == nil {
		err = b.WSL.Net.LinkSetMaster(port, master)
	}
	if err == nil {
		err = b.WSL.Net.LinkSetUp(port)
	}
	if err != nil {
		return fmt.Errorf("join %s to %s: %w", veth, bridge, err)
	}
	return addDefaultRoute(c, eth0, gateway)
}

// AwaitContainer waits until a container answers on its own address: a bridge
// may take a second to see that a port has a carrier.
func (b *Bench) AwaitContainer(addr netip.Addr) error {
	to := netip.AddrPortFrom(addr, containerPort).String()
	for deadline := time.Now().Add(Scaled(30 * time.Second)); ; {
		_, err := b.WSL.Ask("tcp", to, 50*time.Millisecond)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the container does not answer: %w", err)
		}
		time.Sleep(time.Millisecond)
	}
}

// RemoveLink removes a link of WSL.
func (b *Bench) RemoveLink(name string) error {
	link, err := b.WSL.Net.LinkByName(name)
	if err == nil {
		err = b.WSL.Net.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// Proxy does in the host what docker-proxy does: it listens on an address and a
// port, and passes on what comes to those of a container, until it is closed.
func (h *Host) Proxy(proto, addr, container string) (io.Closer, error) {
	p, err := newProxy(h, proto, addr, container)
	if err != nil {
		return nil, fmt.Errorf("publish %s %s: %w", proto, addr, err)
	}
	return p, nil
}

// Hold binds a port and serves nobody on it, as an engine without a proxy does,
// until it is closed.
func (h *Host) Hold(proto, addr string) (c io.Closer, err error) {
	err = h.Do(func() error {
		if proto == "udp" {
			c, err = net.ListenPacket("udp4", addr)
		} else {
			c, err = listen(addr)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("hold %s %s in %s: %w", proto, addr, h.Name, err)
	}
	return c, nil
}
