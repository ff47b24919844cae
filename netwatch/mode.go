package netwatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// A Mode is a networking mode of WSL2 in which Windows and Linux share localhost,
// derived from what the kernel shows. Its value is the word in JSON; String is for
// people.
type Mode string

// The modes.
const (
	Mirrored    Mode = "mirrored"
	MirroredHAL Mode = "mirrored-hal" // with hostAddressLoopback=true
	Consomme    Mode = "consomme"     // called virtioproxy until WSL 2.9
	NoMode      Mode = "none"         // there is no loopback0
)

// String returns the mode's name for people.
func (m Mode) String() string {
	switch m {
	case MirroredHAL:
		return "mirrored with hostAddressLoopback"
	case NoMode:
		return "none that shares localhost"
	}
	return string(m)
}

// Mirrors reports whether WSL mirrors Windows' network interfaces. WSL then has
// reserved a block of ports and has its own chains in the ruleset.
func (m Mode) Mirrors() bool { return m == Mirrored || m == MirroredHAL }

// Shares reports whether Windows and Linux share localhost.
func (m Mode) Shares() bool { return m.Mirrors() || m == Consomme }

// WSL's routing tables (NetworkManager.cpp).
const (
	LoopbackTable = 127 // how 127.0.0.1 reaches Windows
	HostTable     = 128 // the same for LAN addresses, only with hostAddressLoopback
)

// selfAssigned is the prefix length of an address that a program such as NetworkManager
// assigns to a link without DHCP (RFC 3927).
const selfAssigned = 16

// consommeMAC is the MAC address of a link to Windows' user mode network. It is a
// property of the device (WSL's ConsommeNetworking.cpp, earlier VirtioNetworking.cpp),
// so the link has it from the start. In mirrored mode this is the neighbour's address,
// and the link has another one.
var consommeMAC = []byte{0x00, 0x11, 0x22, 0x33, 0x44, 0x55}

// Mode derives the mode from loopback0, which need not be Present.
func (c *Conn) Mode(loopback0 Link) (Mode, error) {
	if !loopback0.Present() {
		return NoMode, nil
	}
	mac, err := c.mac(loopback0.Index)
	if errors.Is(err, unix.ENODEV) {
		return NoMode, nil
	}
	if err != nil {
		return "", fmt.Errorf("read link %d: %w", loopback0.Index, err)
	}
	prefixes, err := c.Prefixes()
	if err != nil {
		return "", err
	}
	routes, err := c.RoutesOf(HostTable)
	if err != nil {
		return "", err
	}
	return modeOf(mac, prefixes[loopback0.Index], routes), nil
}

// modeOf derives the mode from the MAC address and IPv4 addresses of loopback0, and the
// routes of HostTable. WSL gives loopback0 an address only in consomme.
func modeOf(mac []byte, prefixes []netip.Prefix, toHost []Route) Mode {
	switch {
	case bytes.Equal(mac, consommeMAC), slices.ContainsFunc(prefixes, ofWSL):
		return Consomme
	case len(toHost) > 0:
		return MirroredHAL
	}
	return Mirrored
}

// ofWSL reports whether WSL may have assigned this address to loopback0. It is
// 169.254.73.250/28, and was 169.254.73.153/30 until WSL 2.8.
func ofWSL(p netip.Prefix) bool {
	return p.Addr().IsLinkLocalUnicast() && p.Bits() > selfAssigned && p.Bits() < p.Addr().BitLen()
}

// mac reads the MAC address of a link. It is nil if the link has none.
func (c *Conn) mac(index int) (mac []byte, err error) {
	request := make([]byte, unix.SizeofIfInfomsg)
	const indexAt = 4
	binary.NativeEndian.PutUint32(request[indexAt:], uint32(index))
	msg, err := c.nl.Ask(unix.RTM_GETLINK, request)
	if err != nil {
		return nil, err
	}
	if len(msg) < unix.SizeofIfInfomsg {
		return nil, fmt.Errorf("a message of %d bytes", len(msg))
	}
	err = nlconn.Attrs(msg[unix.SizeofIfInfomsg:], func(a *nlconn.Attr) {
		if a.Kind == unix.IFLA_ADDRESS {
			mac = a.Data
		}
	})
	return mac, err
}
