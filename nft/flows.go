package nft

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ForgetFlows deletes the conntrack entries of flows from 127.0.0.1 to 127.0.0.1
// that have another NAT than new flows get, and returns how many there were:
// those to the ports in proxy that were sent elsewhere, those to the ports in
// kernel that were not, and those that were sent elsewhere with 127.0.0.1 as
// their source, which nobody elsewhere can answer.
//
// An entry keeps for life the NAT that its first packet was given. A UDP client
// with a fixed source port that began before our rule was there would be sent
// to the container for as long as it keeps sending, and a TCP SYN retransmits
// into the entry of the first try. Without its entry the next packet is a new
// flow, and meets the rule.
func ForgetFlows(proxy, kernel Ports) (uint, error) {
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, misdirected{proxy, kernel})
	if err != nil {
		return n, fmt.Errorf("delete conntrack entries: %w", err)
	}
	return n, nil
}

// misdirected matches what ForgetFlows forgets.
type misdirected struct{ proxy, kernel Ports }

func (m misdirected) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	self := net.IP(loopback)
	if !f.Forward.SrcIP.Equal(self) || !f.Forward.DstIP.Equal(self) {
		return false
	}
	port := Port{f.Forward.Protocol, f.Forward.DstPort}
	if port.Proto != unix.IPPROTO_TCP && port.Proto != unix.IPPROTO_UDP {
		return false
	}
	if elsewhere := !f.Reverse.SrcIP.Equal(self); elsewhere {
		return m.proxy.Has(port) || f.Reverse.DstIP.Equal(self)
	}
	return m.kernel.Has(port)
}
