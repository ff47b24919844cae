package netwatch

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Route is a route of IPv4, in any table.
type Route struct {
	Table uint32
	Type  uint8 // one of unix.RTN_*
	To    netip.Prefix
	Via   netip.Addr // invalid: none
	Link  int        // the index; 0: none, or several
}

// A Neighbour is what the kernel knows of a neighbour of IPv4.
type Neighbour struct {
	Link  int // the index
	Addr  netip.Addr
	State uint16 // of unix.NUD_*
}

// ReadRoutes reads the routes of IPv4 of all tables. Like all functions here that
// begin with Read it opens a socket in the network namespace of the calling
// thread, and needs no rights.
func ReadRoutes() ([]Route, error) { return read("routes", unix.RTM_GETROUTE, decodeRoute) }

// ReadNeighbours reads the neighbours of IPv4.
func ReadNeighbours() ([]Neighbour, error) {
	return read("neighbours", unix.RTM_GETNEIGH, decodeNeighbour)
}

// read asks for all objects of a kind of IPv4.
func read[T any](what string, kind netlink.HeaderType, decode func([]byte) (T, error)) ([]T, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(readTimeout)); err != nil {
		return nil, fmt.Errorf("set the deadline of netlink: %w", err)
	}
	// The headers of these requests (rtmsg, ndmsg, fib_rule_hdr) are of one size
	// and begin with the family.
	req := make([]byte, unix.SizeofRtMsg)
	req[0] = unix.AF_INET
	msgs, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Dump},
		Data:   req,
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	list := make([]T, 0, len(msgs))
	for _, m := range msgs {
		v, err := decode(m.Data)
		if err != nil {
			return nil, fmt.Errorf("decode %s: %w", what, err)
		}
		list = append(list, v)
	}
	return list, nil
}

// decodeRoute decodes a rtmsg and its attributes (rtnetlink(7)).
func decodeRoute(b []byte) (Route, error) {
	const bitsAt, tableAt, typeAt = 1, 4, 7
	if len(b) < unix.SizeofRtMsg {
		return Route{}, fmt.Errorf("a message of %d bytes", len(b))
	}
	r := Route{Table: uint32(b[tableAt]), Type: b[typeAt], To: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
	err := attributes(b[unix.SizeofRtMsg:], func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.RTA_TABLE:
			r.Table = ad.Uint32()
		case unix.RTA_DST:
			if a, ok := netip.AddrFromSlice(ad.Bytes()); ok {
				r.To = netip.PrefixFrom(a, int(b[bitsAt]))
			}
		case unix.RTA_GATEWAY:
			r.Via, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_OIF:
			r.Link = int(ad.Uint32())
		}
	})
	return r, err
}

// decodeNeighbour decodes a ndmsg and its attributes.
func decodeNeighbour(b []byte) (n Neighbour, err error) {
	const linkAt, stateAt = 4, 8
	if len(b) < unix.SizeofNdMsg {
		return n, fmt.Errorf("a message of %d bytes", len(b))
	}
	n.Link = int(int32(binary.NativeEndian.Uint32(b[linkAt:])))
	n.State = binary.NativeEndian.Uint16(b[stateAt:])
	err = attributes(b[unix.SizeofNdMsg:], func(ad *netlink.AttributeDecoder) {
		if ad.Type() == unix.NDA_DST {
			n.Addr, _ = netip.AddrFromSlice(ad.Bytes())
		}
	})
	return n, err
}
