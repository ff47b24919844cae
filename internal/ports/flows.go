package ports

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/conntrack"
)

// A Flow is a connection of a container whose source port the kernel has put
// into the block of ports of Linux (WSL's masquerade): no socket here has it.
type Flow struct {
	Proto         string
	Local, Remote netip.AddrPort // as they are outside
}

var protocols = map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}

// Flows are the connections that are masqueraded. It needs CAP_NET_ADMIN: the
// error is EPERM without.
func Flows() ([]Flow, error) {
	var flows []Flow
	err := conntrack.Each(func(f conntrack.Flow) bool {
		proto := protocols[f.Original.Proto]
		if proto != "" && f.Original.Src.Addr() != f.Reply.Dst.Addr() {
			flows = append(flows, Flow{Proto: proto, Local: f.Reply.Dst, Remote: f.Reply.Src})
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("list connections: %w", err)
	}
	return flows, nil
}
