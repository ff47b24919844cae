package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What WSL's src/linux/init/NetworkManager.cpp sets up, for IPv4.
const (
	loopback0  = "loopback0"
	windowsNIC = "vEthernet" // the other end of loopback0
	eth0       = "eth0"

	loopbackTable = 127
	localTable    = 128
)

var (
	localhost = netip.MustParseAddr("127.0.0.1")
	// gateway is nobody's address: it only makes the kernel use the MAC
	// address of the neighbour entry.
	gateway = netip.MustParseAddr("169.254.73.249")

	// gatewayMAC tells Windows that a packet is for localhost or for an
	// address of its own.
	gatewayMAC   = net.HardwareAddr{0x00, 0x11, 0x22, 0x33, 0x44, 0x55}
	loopback0MAC = net.HardwareAddr{0x00, 0x15, 0x5d, 0x00, 0x00, 0x00} // 00:15:5d is Hyper-V's
	eth0MAC      = net.HardwareAddr{0x00, 0x15, 0x5d, 0x00, 0x00, 0x01}
)

// connectLAN gives WSL the mirrored interface eth0, with the LAN behind it.
func (b *Bench) connectLAN() error {
	if err := connect(b.WSL, eth0, eth0MAC, b.LAN, eth0, gatewayMAC); err != nil {
		return err
	}
	if err := addAddress(b.LAN, eth0, lanAddr); err != nil {
		return err
	}
	if err := b.addressNIC(eth0, wslAddr); err != nil {
		return err
	}
	if err := addDefaultRoute(b.WSL, eth0, lanAddr.Addr()); err != nil {
		return err
	}
	return b.addLANChain(false)
}

// addLANChain gives the LAN its chain, and those rules of Windows' as well.
func (b *Bench) addLANChain(ofWindows bool) error {
	c, err := b.LAN.NFT()
	if err != nil {
		return fmt.Errorf("open nftables of the LAN: %w", err)
	}
	if err := leaveMarked(b.LAN, eth0, wslAddr.Addr(), backTable, eth0MAC); err != nil {
		return err
	}
	ingress := addHairpin(c, eth0)
	if ofWindows {
		if _, err := b.addOwnership(c, ingress, lanAddr.Addr(), gotoHairpin); err != nil {
			return err
		}
	}
	// What Linux sends to its own LAN address leaves by eth0 as well, and
	// comes back.
	addRules(c, ingress, [][]expr.Any{matchAddr(daddr, expr.CmpOpEq, single(wslAddr.Addr())), gotoHairpin})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("add the LAN's chains: %w", err)
	}
	return nil
}

// LevelLAN makes a packet to the LAN as much work as one to Windows, for whoever
// measures both ways: what Windows does itself the bench does by rules, which the
// LAN has then too. None of them applies to a client there. It has as many source
// ports, and may use them again as soon as one of 127.0.0.1 may, after a second.
func (b *Bench) LevelLAN() error {
	for key, value := range map[string]string{
		"ip_local_port_range": windowsPorts, "tcp_tw_reuse": "1",
		"conf/all/rp_filter": "0", "conf/eth0/rp_filter": "0", "conf/eth0/accept_local": "1",
	} {
		if err := b.LAN.Sysctl("ipv4/"+key, value); err != nil {
			return err
		}
	}
	if err := localFirst(b.LAN, eth0); err != nil {
		return err
	}
	if err := mirrorRules(b.LAN); err != nil {
		return err
	}
	return b.addLANChain(true)
}

// connectWindows makes loopback0 and both of its ends.
func (b *Bench) connectWindows() error {
	if err := b.plugLoopback0(); err != nil {
		return err
	}
	if err := b.mirrorLoopback(); err != nil {
		return err
	}
	for _, h := range []*Host{b.WSL, b.Windows} {
		if err := mirrorRules(h); err != nil {
			return err
		}
	}
	return nil
}

// plugLoopback0 makes loopback0, with its other end in Windows.
func (b *Bench) plugLoopback0() error {
	if err := connect(b.WSL, loopback0, b.loopback0MAC(), b.Windows, windowsNIC, gatewayMAC); err != nil {
		return err
	}
	if b.mode == Consomme {
		return addAddress(b.WSL, loopback0, consommeAddr)
	}
	return nil
}

// loopback0MAC is that of loopback0. In consomme it is the same as Windows' end has:
// WSL's neighbour entry for the gateway has that too.
func (b *Bench) loopback0MAC() net.HardwareAddr {
	if b.mode == Consomme {
		return gatewayMAC
	}
	return loopback0MAC
}

// mirrorLoopback sets up both ends of loopback0, as often as it is called.
func (b *Bench) mirrorLoopback() error {
	if err := b.sendToWindows(); err != nil {
		return err
	}
	return localFirst(b.WSL, loopback0)
}

// sendToWindows is mirrorLoopback without the rules of WSL.
func (b *Bench) sendToWindows() error {
	if err := mirror(b.WSL, loopback0, localhost, loopbackTable, gatewayMAC); err != nil {
		return err
	}
	if err := mirror(b.Windows, windowsNIC, localhost, loopbackTable, b.loopback0MAC()); err != nil {
		return err
	}
	if err := localFirst(b.Windows, windowsNIC); err != nil {
		return err
	}
	return b.owner.install()
}

// connect joins two hosts by a pair of links, made where they belong. The
// links are down.
func connect(a *Host, aName string, aMAC net.HardwareAddr, b *Host, bName string, bMAC net.HardwareAddr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = aName, aMAC
	err := a.Net.LinkAdd(&netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         bName,
		PeerHardwareAddr: bMAC,
		PeerNamespace:    netlink.NsFd(b.NetNS()),
	})
	if err != nil {
		return fmt.Errorf("connect %s of %s with %s of %s: %w", aName, a.Name, bName, b.Name, err)
	}
	return nil
}

// addAddress gives a link an address and sets it up.
func addAddress(h *Host, dev string, addr netip.Prefix) error {
	link, err := h.Net.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", dev, h.Name, err)
	}
	ipNet := &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), addr.Addr().BitLen())}
	if err := h.Net.AddrAdd(link, &netlink.Addr{IPNet: ipNet}); err != nil {
		return fmt.Errorf("add %s to %s of %s: %w", addr, dev, h.Name, err)
	}
	if err := h.Net.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up %s of %s: %w", dev, h.Name, err)
	}
	return nil
}

// addressNIC gives an interface of WSL an address, with the metrics that WSL has,
// and sets it up.
func (b *Bench) addressNIC(dev string, addr netip.Prefix) error {
	link, err := b.WSL.Net.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s of WSL: %w", dev, err)
	}
	if err := b.WSL.Net.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up %s of WSL: %w", dev, err)
	}
	mask := net.CIDRMask(addr.Bits(), 32)
	err = b.WSL.Net.AddrAdd(link, &netlink.Addr{
		IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: mask}, Flags: unix.IFA_F_NOPREFIXROUTE,
	})
	if err != nil {
		return fmt.Errorf("add %s to %s of WSL: %w", addr, dev, err)
	}
	err = b.WSL.Net.RouteAdd(&netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: addr.Masked().Addr().AsSlice(), Mask: mask},
		Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_KERNEL, Priority: 281,
	})
	if err != nil {
		return fmt.Errorf("add route to %s by %s: %w", addr.Masked(), dev, err)
	}
	return nil
}

func addDefaultRoute(h *Host, dev string, via netip.Addr) error {
	link, err := h.Net.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", dev, h.Name, err)
	}
	err = h.Net.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: via.AsSlice(), Protocol: unix.RTPROT_KERNEL, Priority: 25})
	if err != nil {
		return fmt.Errorf("add default route by %s of %s: %w", dev, h.Name, err)
	}
	return nil
}

// enableLoopbackRouting lets packets with addresses of h itself arrive on dev.
func enableLoopbackRouting(h *Host, dev string) error {
	for _, key := range []string{"accept_local", "route_localnet"} {
		if err := h.Sysctl("ipv4/conf/"+dev+"/"+key, "1"); err != nil {
			return err
		}
	}
	return nil
}

// mirror lets packets to an address of h leave it through dev and arrive on dev, and
// sets dev up. It may be repeated.
func mirror(h *Host, dev string, addr netip.Addr, table int, neighbour net.HardwareAddr) error {
	if err := enableLoopbackRouting(h, dev); err != nil {
		return err
	}
	for _, scope := range []string{"all", dev} { // the stricter of both counts
		if err := h.Sysctl("ipv4/conf/"+scope+"/rp_filter", "0"); err != nil {
			return err
		}
	}
	link, err := h.Net.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", dev, h.Name, err)
	}
	if err := h.Net.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up %s of %s: %w", dev, h.Name, err)
	}
	return leaveBy(h, dev, addr, table, neighbour)
}

// leaveBy gives a table the route by which packets to addr leave h through dev.
func leaveBy(h *Host, dev string, addr netip.Addr, table int, neighbour net.HardwareAddr) error {
	link, err := h.Net.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", dev, h.Name, err)
	}
	index := link.Attrs().Index
	err = h.Net.NeighSet(&netlink.Neigh{
		LinkIndex:    index,
		Family:       unix.AF_INET,
		State:        netlink.NUD_PERMANENT,
		IP:           gateway.AsSlice(),
		HardwareAddr: neighbour,
	})
	if err != nil {
		return fmt.Errorf("set neighbour of %s of %s: %w", dev, h.Name, err)
	}
	err = h.Net.RouteReplace(&netlink.Route{
		LinkIndex: index,
		Dst:       host(addr),
		Gw:        gateway.AsSlice(),
		Src:       addr.AsSlice(),
		Flags:     int(netlink.FLAG_ONLINK),
		Table:     table,
		Protocol:  unix.RTPROT_KERNEL,
	})
	if err != nil {
		return fmt.Errorf("set route to %s by %s of %s: %w", addr, dev, h.Name, err)
	}
	return nil
}

// host is the network of one address.
func host(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(32, 32)}
}

// localFirst has the table local come first for TCP and UDP by dev.
func localFirst(h *Host, dev string) error {
	for _, proto := range []int{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		rule := netlink.NewRule()
		rule.Priority, rule.IifName, rule.IPProto, rule.Table = 0, dev, proto, unix.RT_TABLE_LOCAL
		if err := addRule(h, rule); err != nil {
			return err
		}
	}
	return nil
}

// mirrorRules is what AddMirroredLoopbackRoutingRules does: TCP and UDP that
// start in h leave it, even to its own addresses; the rest stays inside.
func mirrorRules(h *Host) error {
	for _, table := range []int{loopbackTable, localTable} {
		for _, proto := range []int{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			rule := netlink.NewRule()
			rule.Priority, rule.IPProto, rule.Table = 1, proto, table
			if err := addRule(h, rule); err != nil {
				return err
			}
		}
	}
	local := netlink.NewRule()
	local.Priority, local.Table = 2, unix.RT_TABLE_LOCAL
	if err := addRule(h, local); err != nil {
		return err
	}
	// Last, so that the local table can be reached at every moment.
	rules, err := h.Net.RuleList(unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list rules of %s: %w", h.Name, err)
	}
	for _, rule := range rules {
		// The kernel takes what is not given as a wildcard, so only a rule
		// that was seen may be removed, or those with an interface go.
		if max(rule.Priority, 0) == 0 && rule.Table == unix.RT_TABLE_LOCAL && rule.IifName == "" && rule.Mask == nil {
			local.Priority = 0
			if err := h.Net.RuleDel(local); err != nil {
				return fmt.Errorf("remove rule %s in %s: %w", rule, h.Name, err)
			}
		}
	}
	return nil
}

// addRule adds a rule unless it is there: rules outlive the interface that
// they name.
func addRule(h *Host, rule *netlink.Rule) error {
	if err := h.Net.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add rule %s in %s: %w", rule, h.Name, err)
	}
	return nil
}
