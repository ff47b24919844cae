package netwatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// A RouteQuery is an IPv4 packet to look up a route for. Zero fields are not specified.
// Dst is required.
type RouteQuery struct {
	// Iif is the index of the link on which the packet arrives, 0 if this machine sends
	// it.
	Iif      int
	Src, Dst netip.Addr
	// Proto is unix.IPPROTO_TCP, UDP or ICMP: the kernel refuses others.
	Proto uint8
	Port  uint16 // the destination
	Mark  uint32
}

// A RouteAnswer is the route that the kernel chooses for a packet, using all ip rules.
type RouteAnswer struct {
	Table uint32 // 0: none
	// Type is one of unix.RTN_*, for example RTN_LOCAL if the packet is delivered
	// locally. If there is no route or the kernel refuses the packet, it is
	// RTN_UNREACHABLE, and Err is the reason.
	Type uint8
	Oif  int        // the index of the link
	Via  netip.Addr // the gateway, not valid if there is none
	Src  netip.Addr // the source address of a packet that has none yet
	Err  error
}

// Route asks the kernel for the route of a packet. It needs no rights and sends no
// packet.
func (c *Conn) Route(q RouteQuery) (RouteAnswer, error) {
	request, err := q.encode()
	if err != nil {
		return RouteAnswer{}, fmt.Errorf("look up a route: %w", err)
	}
	msg, err := c.nl.Ask(unix.RTM_GETROUTE, request)
	if isNoRoute(err) {
		return RouteAnswer{Type: unix.RTN_UNREACHABLE, Err: err}, nil
	}
	if err != nil {
		return RouteAnswer{}, fmt.Errorf("look up a route: %w", err)
	}
	a, err := decodeAnswer(msg)
	if err != nil {
		return a, fmt.Errorf("decode a route: %w", err)
	}
	return a, nil
}

// isNoRoute reports whether the kernel answered that such a packet goes nowhere. These
// are the errors of routes that refuse (fib_props in net/ipv4/fib_semantics.c) and of
// the checks on arriving packets (ip_route_input_rcu in net/ipv4/route.c). For example,
// rp_filter returns EXDEV before Linux 6.13 and EINVAL since.
func isNoRoute(err error) bool {
	for _, errno := range []error{
		unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.EXDEV, unix.ENETDOWN,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// encode encodes a rtmsg and its attributes.
func (q RouteQuery) encode() ([]byte, error) {
	if !q.Dst.Is4() || q.Src.IsValid() && !q.Src.Is4() {
		return nil, errors.New("an address is missing or not of IPv4")
	}
	const dstLenAt, srcLenAt, flagsAt = 1, 2, 8
	b := ipv4()
	b[dstLenAt] = 32
	// Without this flag the answer names the table main, whichever table it was.
	binary.NativeEndian.PutUint32(b[flagsAt:], unix.RTM_F_LOOKUP_TABLE)
	b = nlconn.Append(b, unix.RTA_DST, q.Dst.AsSlice())
	if q.Src.IsValid() {
		b[srcLenAt] = 32
		b = nlconn.Append(b, unix.RTA_SRC, q.Src.AsSlice())
	}
	if q.Iif != 0 {
		b = nlconn.AppendUint32(b, unix.RTA_IIF, uint32(q.Iif))
	}
	if q.Mark != 0 {
		b = nlconn.AppendUint32(b, unix.RTA_MARK, q.Mark)
	}
	if q.Proto != 0 {
		b = nlconn.AppendUint8(b, unix.RTA_IP_PROTO, q.Proto)
	}
	if q.Port != 0 {
		b = nlconn.AppendUint16BE(b, unix.RTA_DPORT, q.Port)
	}
	return b, nil
}

// decodeAnswer decodes a rtmsg and its attributes in the answer to a route query.
func decodeAnswer(b []byte) (RouteAnswer, error) {
	r, err := decodeRoute(b)
	a := RouteAnswer{Table: r.Table, Type: r.Type, Oif: r.Link, Via: r.Via}
	if err != nil {
		return a, err
	}
	err = nlconn.Attrs(b[unix.SizeofRtMsg:], func(at *nlconn.Attr) {
		if at.Kind == unix.RTA_PREFSRC {
			a.Src = at.Addr()
		}
	})
	return a, err
}
