// Package conntrack lists the IPv4 flows that the kernel tracks, and evicts some of
// them. It needs CAP_NET_ADMIN.
package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// A Flow is the traffic between two ends, with the addresses of the packets in both
// directions. With NAT, Reply is not the reverse of Original.
type Flow struct {
	Original, Reply Tuple
	Mark            uint32
	// Replied says that something came back.
	Replied bool
	// Assured says that both ends have sent packets: a TCP connection is established.
	Assured bool
}

// A Tuple describes the packets of one direction. The ports are 0 if the protocol has
// none.
type Tuple struct {
	Src, Dst netip.AddrPort
	Proto    uint8 // one of unix.IPPROTO_*
}

// Messages and attributes of nfnetlink_conntrack.h.
const (
	msgGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	msgDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE

	original, reply, state, mark = 1, 2, 3, 8     // CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_MARK
	seenReply, assured           = 1 << 1, 1 << 2 // IPS_SEEN_REPLY, IPS_ASSURED

	tupleIP, tupleProto        = 1, 2    // CTA_TUPLE_IP, CTA_TUPLE_PROTO
	ipSrc, ipDst               = 1, 2    // CTA_IP_V4_SRC, CTA_IP_V4_DST
	protoNum, srcPort, dstPort = 1, 2, 3 // CTA_PROTO_NUM and so on

	header = 4 // the length of struct nfgenmsg
)

// ipv4 is a struct nfgenmsg.
var ipv4 = [header]byte{unix.AF_INET, unix.NFNETLINK_V0}

// Each calls each with the flows in the network namespace of the calling thread, until
// it returns false. A kernel without nf_conntrack_netlink answers EINVAL or ENOENT.
// EPERM means that CAP_NET_ADMIN is missing.
//
// An interrupted dump is not an error here and is not repeated. Flows begin and end all
// the time, so the list is out of date anyway when it has been read.
func Each(each func(Flow) bool) error {
	c, err := nlconn.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer c.Close()
	return list(c, func(f Flow, _ []byte) bool { return each(f) })
}

// list calls each with the flows and their encoded attributes, which are valid until
// each returns.
func list(c *nlconn.Conn, each func(f Flow, attrs []byte) bool) error {
	err := c.Each(msgGet, ipv4[:], func(msg []byte) bool {
		f, err := decode(msg)
		// A flow that cannot be decoded is skipped: it is one of many.
		return err != nil || each(f, msg[header:])
	})
	if err != nil && !errors.Is(err, nlconn.ErrInterrupted) {
		return fmt.Errorf("read conntrack entries: %w", err)
	}
	return nil
}

// Evict deletes the entries of the flows that match, in the network namespace of the
// calling thread, and returns how many there were. The next packet of such a flow
// begins a new flow and meets the nat rules again. For errors see Each.
func Evict(match func(Flow) bool) (n int, err error) {
	c, err := nlconn.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	var found [][]byte
	err = list(c, func(f Flow, attrs []byte) bool {
		if match(f) {
			found = append(found, slices.Concat(ipv4[:], attrs))
		}
		return true
	})
	if err != nil {
		return 0, err
	}
	for _, entry := range found {
		// The whole entry is sent back because it contains the ID: a younger flow with
		// the same tuples is a different flow.
		switch err := c.Do(msgDelete, 0, entry); {
		case err == nil:
			n++
		case !errors.Is(err, unix.ENOENT): // ENOENT: the flow has already ended
			return n, fmt.Errorf("delete a conntrack entry: %w", err)
		}
	}
	return n, nil
}

// decode decodes a message. It allocates nothing, because few of perhaps a hundred
// thousand flows are of interest.
func decode(msg []byte) (f Flow, err error) {
	if len(msg) < header {
		return f, fmt.Errorf("a message of %d bytes", len(msg))
	}
	for b := msg[header:]; len(b) > 0; {
		kind, data, rest, err := nlconn.Next(b)
		if err != nil {
			return f, err
		}
		switch {
		case kind == original:
			f.Original, err = decodeTuple(data)
		case kind == reply:
			f.Reply, err = decodeTuple(data)
		case kind == state && len(data) == 4:
			bits := binary.BigEndian.Uint32(data)
			f.Replied, f.Assured = bits&seenReply != 0, bits&assured != 0
		case kind == mark && len(data) == 4:
			f.Mark = binary.BigEndian.Uint32(data)
		}
		if err != nil {
			return f, err
		}
		b = rest
	}
	if !f.Original.Src.IsValid() || !f.Reply.Src.IsValid() {
		return f, errors.New("a flow without its tuples")
	}
	return f, nil
}

// decodeTuple decodes the content of an attribute CTA_TUPLE_*.
func decodeTuple(b []byte) (t Tuple, err error) {
	var src, dst netip.Addr
	var from, to uint16
	for len(b) > 0 {
		kind, data, rest, err := nlconn.Next(b)
		if err != nil {
			return t, err
		}
		switch kind {
		case tupleIP:
			src, dst, err = decodeAddrs(data)
		case tupleProto:
			t.Proto, from, to, err = decodeProto(data)
		}
		if err != nil {
			return t, err
		}
		b = rest
	}
	if !src.IsValid() || !dst.IsValid() {
		return t, errors.New("a tuple without addresses")
	}
	t.Src, t.Dst = netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, to)
	return t, nil
}

func decodeAddrs(b []byte) (src, dst netip.Addr, err error) {
	for len(b) > 0 {
		kind, data, rest, err := nlconn.Next(b)
		if err != nil {
			return src, dst, err
		}
		if len(data) == 4 {
			switch addr := netip.AddrFrom4([4]byte(data)); kind {
			case ipSrc:
				src = addr
			case ipDst:
				dst = addr
			}
		}
		b = rest
	}
	return src, dst, nil
}

func decodeProto(b []byte) (proto uint8, src, dst uint16, err error) {
	for len(b) > 0 {
		kind, data, rest, err := nlconn.Next(b)
		if err != nil {
			return proto, src, dst, err
		}
		switch {
		case kind == protoNum && len(data) == 1:
			proto = data[0]
		case kind == srcPort && len(data) == 2:
			src = binary.BigEndian.Uint16(data)
		case kind == dstPort && len(data) == 2:
			dst = binary.BigEndian.Uint16(data)
		}
		b = rest
	}
	return proto, src, dst, nil
}
