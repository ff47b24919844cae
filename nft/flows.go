package nft

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ForgetFlows deletes the conntrack entries of flows from 127.0.0.1 to
// 127.0.0.1 that were sent elsewhere by DNAT, and returns how many there were.
//
// An entry keeps for life the NAT that its first packet was given. A UDP client
// with a fixed source port that began before our rule was there would be sent
// to the container for as long as it keeps sending, and a TCP SYN retransmits
// into the entry of the first try. Without its entry the next packet is a new
// flow, and meets the rule.
func ForgetFlows() (uint, error) {
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, redirected{})
	if err != nil {
		return n, fmt.Errorf("delete conntrack entries: %w", err)
	}
	return n, nil
}

// redirected matches flows between 127.0.0.1 and itself that are answered from
// another address.
type redirected struct{}

func (redirected) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	localhost := net.IP(loopback)
	return f.Forward.SrcIP.Equal(localhost) && f.Forward.DstIP.Equal(localhost) &&
		!f.Reverse.SrcIP.Equal(localhost)
}
