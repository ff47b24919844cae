package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ForgetFlows deletes the conntrack entries of flows from 127.0.0.1 to 127.0.0.1
// that lead nowhere under s, and returns how many there were: those that were
// sent to where their port is not sent any more, those to the ports in freed
// that were kept from the kernel, and those that were sent elsewhere with
// 127.0.0.1 as their source, which nobody elsewhere can answer. What goes through
// a proxy goes on, also where new flows go past it.
//
// An entry keeps for life the NAT that its first packet was given. A UDP client
// with a fixed source port that began before our rule was there would be sent
// to the container for as long as it keeps sending, and a TCP SYN retransmits
// into the entry of the first try. Without its entry the next packet is a new
// flow, and meets the rule.
func ForgetFlows(s Spec, freed Ports) (n uint, err error) {
	return forget(misdirected{now: s, freed: freed}.has)
}

// ForgetDatagrams is ForgetFlows for UDP alone.
func ForgetDatagrams(s Spec) (n uint, err error) {
	m := misdirected{now: s}
	return forget(func(f flow) bool { return f.forward.proto == unix.IPPROTO_UDP && m.has(f) })
}

func forget(misdirected func(flow) bool) (n uint, err error) {
	c, err := openConntrack()
	if err != nil {
		return 0, err
	}
	defer c.close()
	var found [][]byte
	// Of a hundred thousand flows few are of interest. The library's own way keeps
	// and decodes them all: 10 µs and some hundred bytes for each.
	err = c.send(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, nil, func(msg []byte) {
		if f, err := decodeFlow(msg); err == nil && misdirected(f) {
			found = append(found, slices.Clone(msg[nfgenmsg:]))
		}
	})
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return 0, fmt.Errorf("read conntrack entries: %w", err)
	}
	for _, flow := range found {
		// The whole entry says which one is meant: its ID is among the rest.
		switch err := c.send(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, flow, func([]byte) {}); {
		case err == nil:
			n++
		case !errors.Is(err, unix.ENOENT): // or it has ended by itself
			return n, fmt.Errorf("delete conntrack entry: %w", err)
		}
	}
	return n, nil
}

// A conntrack is a socket to conntrack.
type conntrack map[int]*nl.SocketHandle

// openConntrack opens one in the network namespace of the calling thread. It does
// not wait for an answer longer than answerTimeout; the library's own would for a
// minute.
func openConntrack() (conntrack, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	c := conntrack{unix.NETLINK_NETFILTER: {Socket: s}}
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := errors.Join(s.SetSendTimeout(&timeout), s.SetReceiveTimeout(&timeout)); err != nil {
		c.close()
		return nil, fmt.Errorf("set the timeout of netlink: %w", err)
	}
	return c, nil
}

func (c conntrack) close() {
	for _, s := range c {
		s.Close()
	}
}

// send sends a request and calls each with the answers.
func (c conntrack) send(msg, flags int, attrs []byte, each func(msg []byte)) error {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|msg, flags)
	req.Sockets = c
	req.AddRawData(append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, attrs...))
	return req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(msg []byte) bool {
		each(msg)
		return true
	})
}

// A flow is what matters here of a conntrack entry: the tuples of both
// directions.
type flow struct{ forward, reverse tuple }

type tuple struct {
	src, dst         [4]byte
	proto            uint8
	srcPort, dstPort uint16
}

// decodeFlow decodes a message of nfnetlink_conntrack.h.
func decodeFlow(msg []byte) (f flow, err error) {
	_, err = attributes(msg, func(a *attr) {
		switch a.kind {
		case nl.CTA_TUPLE_ORIG:
			a.do(f.forward.decode)
		case nl.CTA_TUPLE_REPLY:
			a.do(f.reverse.decode)
		}
	})
	return f, err
}

func (t *tuple) decode(b []byte) error {
	return nested(b, func(a *attr) {
		switch a.kind {
		case nl.CTA_TUPLE_IP:
			a.do(func(b []byte) error {
				return nested(b, func(a *attr) {
					switch a.kind {
					case nl.CTA_IP_V4_SRC:
						copy(t.src[:], a.data)
					case nl.CTA_IP_V4_DST:
						copy(t.dst[:], a.data)
					}
				})
			})
		case nl.CTA_TUPLE_PROTO:
			a.do(func(b []byte) error {
				return nested(b, func(a *attr) {
					switch {
					case a.kind == nl.CTA_PROTO_NUM && len(a.data) == 1:
						t.proto = a.data[0]
					case a.kind == nl.CTA_PROTO_SRC_PORT && len(a.data) == 2:
						t.srcPort = binary.BigEndian.Uint16(a.data)
					case a.kind == nl.CTA_PROTO_DST_PORT && len(a.data) == 2:
						t.dstPort = binary.BigEndian.Uint16(a.data)
					}
				})
			})
		}
	})
}

// Diverts reports whether flows that have begun under old may lead nowhere under
// s. It is worth to ask: ForgetFlows looks at all connections, of which there may
// be a hundred thousand, and most changes are ports that come.
func (s Spec) Diverts(old Spec) bool {
	for p, to := range old.Direct {
		if s.Direct[p] != to {
			return true
		}
	}
	return !slices.Equal(s.Kernel, old.Kernel)
}

// misdirected matches what ForgetFlows forgets.
type misdirected struct {
	now   Spec
	freed Ports
}

func (m misdirected) has(f flow) bool {
	self := [4]byte(loopback)
	if f.forward.src != self || f.forward.dst != self {
		return false
	}
	port := Port{f.forward.proto, f.forward.dstPort}
	if port.Proto != unix.IPPROTO_TCP && port.Proto != unix.IPPROTO_UDP {
		return false
	}
	switch to, direct := m.now.Direct[port]; {
	case f.reverse.src == self:
		return m.freed.Has(port)
	case f.reverse.dst == self:
		return true
	case direct:
		return netip.AddrPortFrom(netip.AddrFrom4(f.reverse.src), f.reverse.srcPort) != to
	default:
		return !m.now.Kernel.Has(port)
	}
}
