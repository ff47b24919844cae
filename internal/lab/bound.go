package lab

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A port is one that some socket has bound.
type port struct {
	proto  uint8 // unix.IPPROTO_TCP or IPPROTO_UDP
	number uint16
}

// key is the port as an element of a set "inet_proto . inet_service".
func (p port) key() []byte {
	return []byte{p.proto, 0, 0, 0, byte(p.number >> 8), byte(p.number), 0, 0}
}

// boundPorts reads which ports are bound in a host. Windows learns of them
// from the calls to bind() (WSL's GnsPortTracker.cpp); here sock_diag tells.
type boundPorts struct {
	socket *nl.SocketHandle
}

func newBoundPorts(h *Host) (*boundPorts, error) {
	s, err := nl.GetNetlinkSocketAt(h.ns, netns.None(), unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag of %s: %w", h.Name, err)
	}
	return &boundPorts{socket: &nl.SocketHandle{Socket: s}}, nil
}

func (b *boundPorts) close() error {
	b.socket.Close()
	return nil
}

// The states of sockets (include/net/tcp_states.h). TCP's bound ones without
// a listener show since Linux 6.8; older kernels ignore the bit.
const (
	tcpListen        = 1 << 10
	tcpBoundInactive = 1 << 13
	anyState         = ^uint32(0)
)

// list returns the ports bound by TCP listeners, by TCP sockets that are
// neither listening nor connected, and by UDP sockets. A connected TCP socket
// does not own its port: its source port is in the block, or a listener's.
func (b *boundPorts) list() ([]port, error) {
	var ports []port
	for _, q := range []struct {
		proto  uint8
		states uint32
	}{
		{unix.IPPROTO_TCP, tcpListen | tcpBoundInactive},
		{unix.IPPROTO_UDP, anyState},
	} {
		// A socket on :: serves 127.0.0.1 as well.
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			// struct inet_diag_req_v2
			req := make([]byte, 56)
			req[0], req[1] = family, q.proto
			binary.NativeEndian.PutUint32(req[4:], q.states)
			dump := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
			dump.AddRawData(req)
			dump.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: b.socket}
			sockets, err := dump.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
			if err != nil {
				return nil, fmt.Errorf("list sockets: %w", err)
			}
			for _, s := range sockets {
				// struct inet_diag_msg: the source port follows four bytes.
				ports = append(ports, port{q.proto, binary.BigEndian.Uint16(s[4:])})
			}
		}
	}
	slices.SortFunc(ports, func(a, b port) int {
		return cmp.Or(cmp.Compare(a.proto, b.proto), cmp.Compare(a.number, b.number))
	})
	return slices.Compact(ports), nil
}
