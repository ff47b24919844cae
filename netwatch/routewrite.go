package netwatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// AddRoute adds a route as WSL adds those of table 127 (ModifyLoopbackRouteImpl in
// src/linux/netlinkutil/RoutingTable.cpp): the gateway is onlink, whatever addresses
// the link has, and the destination is also the source address. An existing route is
// not an error.
func (c *Conn) AddRoute(r Route) error {
	const bitsAt, tableAt, protocolAt, scopeAt, typeAt, flagsAt = 1, 4, 5, 6, 7, 8
	b := ipv4()
	b[bitsAt], b[tableAt], b[protocolAt] = byte(r.To.Bits()), unix.RT_TABLE_COMPAT, unix.RTPROT_KERNEL
	b[scopeAt], b[typeAt] = unix.RT_SCOPE_UNIVERSE, r.Type
	binary.NativeEndian.PutUint32(b[flagsAt:], unix.RTNH_F_ONLINK)
	b = nlconn.AppendUint32(b, unix.RTA_TABLE, r.Table)
	b = nlconn.Append(b, unix.RTA_DST, r.To.Addr().AsSlice())
	b = nlconn.Append(b, unix.RTA_GATEWAY, r.Via.AsSlice())
	b = nlconn.Append(b, unix.RTA_PREFSRC, r.To.Addr().AsSlice())
	b = nlconn.AppendUint32(b, unix.RTA_OIF, uint32(r.Link))
	if err := c.nl.Do(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, b); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add the route to %s to table %d: %w", r.To, r.Table, err)
	}
	return nil
}

// Neighbour reads one neighbour. Its State is 0 if the kernel does not know it.
func (c *Conn) Neighbour(link int, addr netip.Addr) (Neighbour, error) {
	answer, err := c.nl.Ask(unix.RTM_GETNEIGH, nlconn.Append(neighbour(link, 0), unix.NDA_DST, addr.AsSlice()))
	if errors.Is(err, unix.ENOENT) {
		return Neighbour{Link: link, Addr: addr}, nil
	}
	if err != nil {
		return Neighbour{}, fmt.Errorf("read neighbour %s: %w", addr, err)
	}
	return decodeNeighbour(answer)
}

// SetNeighbour adds or replaces a neighbour.
func (c *Conn) SetNeighbour(n Neighbour) error {
	b := nlconn.Append(neighbour(n.Link, n.State), unix.NDA_DST, n.Addr.AsSlice())
	b = nlconn.Append(b, unix.NDA_LLADDR, []byte(n.MAC))
	if err := c.nl.Do(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b); err != nil {
		return fmt.Errorf("set neighbour %s: %w", n.Addr, err)
	}
	return nil
}

// neighbour encodes a ndmsg.
func neighbour(link int, state uint16) []byte {
	const linkAt, stateAt = 4, 8
	b := ipv4()
	binary.NativeEndian.PutUint32(b[linkAt:], uint32(link))
	binary.NativeEndian.PutUint16(b[stateAt:], state)
	return b
}
