package lab

import (
	"cmp"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab/tracker"
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
// from the calls to bind() (WSL's GnsPortTracker.cpp, see Options.Tracker); here
// sock_diag tells.
type boundPorts struct {
	sockets *tracker.Sockets
}

func newBoundPorts(h *Host) (*boundPorts, error) {
	s, err := tracker.OpenSockets(h.NetNS())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	return &boundPorts{sockets: s}, nil
}

func (b *boundPorts) close() error { return b.sockets.Close() }

// list returns the ports bound by TCP listeners, by TCP sockets that are
// neither listening nor connected, and by UDP sockets. A connected TCP socket
// does not own its port: its source port is in the block, or a listener's.
func (b *boundPorts) list() ([]port, error) {
	var ports []port
	for _, q := range []struct {
		proto  uint8
		states uint32
	}{
		{unix.IPPROTO_TCP, tracker.TCPListen | tracker.TCPBoundInactive},
		{unix.IPPROTO_UDP, tracker.AnyState},
	} {
		// A socket on :: serves 127.0.0.1 as well.
		sockets, err := b.sockets.List(q.proto, q.states)
		if err != nil {
			return nil, err
		}
		for _, s := range sockets {
			ports = append(ports, port{s.Proto, s.Addr.Port()})
		}
	}
	slices.SortFunc(ports, func(a, b port) int {
		return cmp.Or(cmp.Compare(a.proto, b.proto), cmp.Compare(a.number, b.number))
	})
	return slices.Compact(ports), nil
}
