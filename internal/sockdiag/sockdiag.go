// Package sockdiag asks the kernel for TCP and UDP sockets (sock_diag(7)).
package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// A Socket is a TCP or UDP socket with a port.
type Socket struct {
	Proto         string // tcp or udp
	State         uint8  // as in the kernel's net/tcp_states.h
	Local, Remote netip.AddrPort
	// OnlyV6 says that an IPv6 socket accepts no IPv4.
	OnlyV6 bool
	// MPTCP says that the socket is part of an MPTCP connection.
	MPTCP bool
	Inode uint32 // 0: no process has it any more
}

// The states that matter here. A TCP socket that has a port but neither listens nor is
// connected is closed: it holds the port, and ss does not show it. Linux 6.8 and later
// list it if the request includes TCP_BOUND_INACTIVE.
const (
	Established   = 1
	synSent       = 2
	TimeWait      = 6
	Closed        = 7
	CloseWait     = 8
	Listening     = 10
	boundInactive = 13
)

// Parts of struct inet_diag_req_v2 and struct inet_diag_msg in the kernel's
// uapi/linux/inet_diag.h. The library's functions are not enough: they do not request
// bound sockets or the attribute that distinguishes IPv6 only from both families.
const (
	requestLen = 56
	messageLen = 72
	allStates  = 1<<(boundInactive+1) - 1
	// The kernel finds these without going through the connections.
	waitingStates = 1<<Listening | 1<<Closed | 1<<boundInactive
	onlyV6        = 11 // INET_DIAG_SKV6ONLY
	ulpInfo       = 19 // INET_DIAG_ULP_INFO
	ulpName       = 1  // INET_ULP_INFO_NAME
)

// ErrNoUDP says that this kernel does not list UDP sockets (CONFIG_INET_UDP_DIAG). The
// result is then complete for TCP.
var ErrNoUDP = errors.New("this kernel does not list the sockets of UDP: it has no udp_diag")

// Sockets returns all TCP and UDP sockets in this network namespace, whoever owns them:
// all distributions of a VM share one. It may return ErrNoUDP together with the TCP
// sockets.
func Sockets() ([]Socket, error) {
	c, err := nlconn.Open(unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	defer c.Close()
	return sockets(func(family, proto byte, each func(Socket)) error { return dump(c, family, proto, allStates, each) })
}

// A Conn looks up sockets. It keeps its netlink socket open.
type Conn struct{ nl *nlconn.Conn }

// Open opens the socket, in the network namespace of the calling thread.
func Open() (*Conn, error) {
	nl, err := nlconn.Open(unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("ask for sockets: %w", err)
	}
	return &Conn{nl}, nil
}

// Close closes the socket.
func (c *Conn) Close() { c.nl.Close() }

// Waiting returns the TCP sockets that listen or only hold a port, and the UDP sockets that
// are not connected.
// The cost does not depend on the number of connections. It may return ErrNoUDP
// together with the TCP sockets.
func (c *Conn) Waiting() ([]Socket, error) {
	return sockets(func(family, proto byte, each func(Socket)) error {
		return dump(c.nl, family, proto, waitingStates, each)
	})
}

// Takes reports whether a socket accepts the first packet of an IPv4 client to an
// address and port: a TCP socket that listens, or a UDP socket that is not connected to
// somebody else. A socket bound to a link accepts only packets that arrive on that
// link: link is its index, or 0. The cost does not depend on the number of sockets.
func (c *Conn) Takes(proto uint8, at netip.AddrPort, link int) (bool, error) {
	request := make([]byte, requestLen)
	request[0], request[1] = unix.AF_INET, proto
	port, addr := request[8:], request[12:] // idiag_sport, idiag_src
	if proto == unix.IPPROTO_UDP {
		// udp_dump_one in net/ipv4/udp_diag.c expects source and destination swapped.
		port, addr = request[10:], request[28:] // idiag_dport, idiag_dst
	}
	binary.BigEndian.PutUint16(port, at.Port())
	copy(addr, at.Addr().AsSlice())
	binary.NativeEndian.PutUint32(request[44:], uint32(link))
	binary.NativeEndian.PutUint64(request[48:], ^uint64(0)) // INET_DIAG_NOCOOKIE: any socket
	_, err := c.nl.Ask(unix.SOCK_DIAG_BY_FAMILY, request)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask for the socket of %s: %w", at, err)
	}
	return true, nil
}

func sockets(dump func(family, proto byte, each func(Socket)) error) ([]Socket, error) {
	var all []Socket
	var missing error
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			err := dump(family, proto, func(s Socket) { all = append(all, s) })
			if family == unix.AF_INET6 && errors.Is(err, unix.ENOENT) {
				continue // a kernel without IPv6
			}
			if proto == unix.IPPROTO_UDP && errors.Is(err, unix.ENOENT) {
				missing = ErrNoUDP
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("list sockets: %w", err)
			}
		}
	}
	return all, missing
}

// Serving returns the ports of 127.0.0.1 that a server uses, in Linux or in Windows:
// ports on which a program listens, and ports to which one is connected.
func (c *Conn) Serving() (ports []uint16, err error) {
	on := func(a netip.Addr) bool { return a == netip.AddrFrom4([4]byte{127, 0, 0, 1}) }
	var connected []Socket
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		dumpErr := dump(c.nl, family, unix.IPPROTO_TCP, allStates, func(s Socket) {
			switch {
			case s.State == Listening && !s.OnlyV6 && (s.Local.Addr().IsUnspecified() || on(s.Local.Addr())):
				ports = append(ports, s.Local.Port())
			case s.State != synSent && on(s.Remote.Addr()):
				connected = append(connected, s)
			}
		})
		if family == unix.AF_INET6 && errors.Is(dumpErr, unix.ENOENT) {
			continue // a kernel without IPv6
		}
		err = errors.Join(err, dumpErr)
	}
	listening := len(ports)
	for _, s := range connected {
		// The remote port of a server's own connection is a client's.
		if !slices.Contains(ports[:listening], s.Local.Port()) {
			ports = append(ports, s.Remote.Port())
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports), err
}

// dump calls each with the sockets of one family and protocol in these states.
func dump(c *nlconn.Conn, family, proto byte, states uint32, each func(Socket)) error {
	body := make([]byte, requestLen)
	// With INET_DIAG_INFO the kernel also reports MPTCP (inet_diag.c).
	const inetDiagInfo = 2
	body[0], body[1], body[2] = family, proto, 1<<(inetDiagInfo-1)
	binary.NativeEndian.PutUint32(body[4:], states)
	// Sockets come and go all the time. An interrupted dump may lack sockets that
	// existed before, so List repeats it.
	list, err := nlconn.List(c, unix.SOCK_DIAG_BY_FAMILY, body, func(msg []byte) (Socket, error) {
		return parseSocket(proto, msg)
	})
	for _, s := range list {
		each(s)
	}
	return err
}

// parseSocket decodes a struct inet_diag_msg and its attributes.
func parseSocket(proto byte, msg []byte) (s Socket, err error) {
	if len(msg) < messageLen {
		return s, fmt.Errorf("a message of %d bytes", len(msg))
	}
	s.Proto = "tcp"
	if proto == unix.IPPROTO_UDP {
		s.Proto = "udp"
	}
	s.State = msg[1]
	addr := func(b []byte) netip.Addr {
		if msg[0] == unix.AF_INET {
			return netip.AddrFrom4([4]byte(b[:4]))
		}
		return netip.AddrFrom16([16]byte(b[:16])).Unmap()
	}
	s.Local = netip.AddrPortFrom(addr(msg[8:]), binary.BigEndian.Uint16(msg[4:]))
	s.Remote = netip.AddrPortFrom(addr(msg[24:]), binary.BigEndian.Uint16(msg[6:]))
	s.Inode = binary.NativeEndian.Uint32(msg[68:])
	err = nlconn.Attrs(msg[messageLen:], func(a *nlconn.Attr) {
		switch a.Kind {
		case onlyV6:
			s.OnlyV6 = a.Uint8() != 0
		case ulpInfo:
			a.Nested(func(a *nlconn.Attr) { s.MPTCP = s.MPTCP || a.Kind == ulpName && a.Text() == "mptcp" })
		}
	})
	return s, err
}
