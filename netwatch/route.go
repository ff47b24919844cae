package netwatch

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// A Route is an IPv4 route in any table.
type Route struct {
	Table uint32
	Type  uint8 // one of unix.RTN_*
	To    netip.Prefix
	Via   netip.Addr // invalid: none
	Link  int        // the index; 0: none or several
}

// A Neighbour is the kernel's entry for an IPv4 neighbour.
type Neighbour struct {
	Link  int // the index
	Addr  netip.Addr
	MAC   string // the bytes of the link-layer address
	State uint16 // of unix.NUD_*
}

// decodeRoute decodes a rtmsg and its attributes (rtnetlink(7)).
func decodeRoute(b []byte) (Route, error) {
	const bitsAt, tableAt, typeAt = 1, 4, 7
	if len(b) < unix.SizeofRtMsg {
		return Route{}, fmt.Errorf("a message of %d bytes", len(b))
	}
	r := Route{Table: uint32(b[tableAt]), Type: b[typeAt], To: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
	err := nlconn.Attrs(b[unix.SizeofRtMsg:], func(a *nlconn.Attr) {
		switch a.Kind {
		case unix.RTA_TABLE:
			r.Table = a.Uint32()
		case unix.RTA_DST:
			r.To = netip.PrefixFrom(a.Addr(), int(b[bitsAt]))
		case unix.RTA_GATEWAY:
			r.Via = a.Addr()
		case unix.RTA_VIA:
			r.Via = via(a)
		case unix.RTA_OIF:
			r.Link = int(a.Uint32())
		}
	})
	return r, err
}

// via returns the gateway in a struct rtvia: an IPv6 gateway of an IPv4 route.
func via(a *nlconn.Attr) netip.Addr {
	const header = 2 // the family
	if len(a.Data) < header {
		return netip.Addr{}
	}
	addr, _ := netip.AddrFromSlice(a.Data[header:])
	return addr
}

// decodeNeighbour decodes a ndmsg and its attributes.
func decodeNeighbour(b []byte) (n Neighbour, err error) {
	const linkAt, stateAt = 4, 8
	if len(b) < unix.SizeofNdMsg {
		return n, fmt.Errorf("a message of %d bytes", len(b))
	}
	n.Link = int(int32(binary.NativeEndian.Uint32(b[linkAt:])))
	n.State = binary.NativeEndian.Uint16(b[stateAt:])
	err = nlconn.Attrs(b[unix.SizeofNdMsg:], func(a *nlconn.Attr) {
		switch a.Kind {
		case unix.NDA_DST:
			n.Addr = a.Addr()
		case unix.NDA_LLADDR:
			n.MAC = string(a.Data)
		}
	})
	return n, err
}
