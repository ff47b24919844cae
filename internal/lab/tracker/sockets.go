package tracker

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// States of sockets, as a set (include/net/tcp_states.h).
const (
	TCPListen uint32 = 1 << 10
	// TCPBoundInactive are the bound ones without a listener or a connection. The kernel
	// shows them since Linux 6.8; older ones ignore the bit.
	TCPBoundInactive uint32 = 1 << 13
	AnyState                = ^uint32(0)
)

// Sockets lists the sockets of a network namespace by sock_diag(7).
type Sockets struct{ handle *nl.SocketHandle }

// OpenSockets opens the namespace of a descriptor.
func OpenSockets(ns int) (*Sockets, error) {
	s, err := nl.GetNetlinkSocketAt(netns.NsHandle(ns), netns.None(), unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	return &Sockets{&nl.SocketHandle{Socket: s}}, nil
}

// Close closes it.
func (s *Sockets) Close() error {
	s.handle.Socket.Close()
	return nil
}

// List returns what the sockets of proto in these states are bound to, IPv4 and IPv6.
func (s *Sockets) List(proto uint8, states uint32) (bindings []Binding, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		// struct inet_diag_req_v2
		req := make([]byte, 56)
		req[0], req[1] = family, proto
		binary.NativeEndian.PutUint32(req[4:], states)
		dump := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		dump.AddRawData(req)
		dump.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: s.handle}
		messages, err := dump.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		for _, m := range messages {
			// struct inet_diag_msg: the source port follows four bytes, its address two
			// ports. A socket of the family AF_INET6 that serves both is shown once.
			addr := netip.AddrFrom16([16]byte(m[8:]))
			if m[0] == unix.AF_INET {
				addr = netip.AddrFrom4([4]byte(m[8:]))
			}
			bindings = append(bindings, Binding{proto, netip.AddrPortFrom(addr, binary.BigEndian.Uint16(m[4:]))})
		}
	}
	return bindings, nil
}
