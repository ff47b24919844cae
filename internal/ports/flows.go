package ports

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/conntrack"
)

// A Flow is a container's connection whose source port the kernel has translated to one
// of the block (WSL's masquerade). No socket in this network namespace has that port.
type Flow struct {
	Proto         string
	Local, Remote netip.AddrPort // after translation
}

var protocols = map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}

// Flows returns the masqueraded connections. It needs CAP_NET_ADMIN and returns EPERM
// without it.
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
