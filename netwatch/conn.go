package netwatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// A Conn reads IPv4 links, addresses, routes, neighbours and ip rules, which needs no
// rights. It writes some of them, which needs CAP_NET_ADMIN. It keeps its sockets open,
// because opening one takes longer than reading. It is not safe for concurrent use.
type Conn struct {
	nl *nlconn.Conn
	// strict is for dumps that the kernel should filter.
	strict *nlconn.Conn
}

// Open opens the sockets, in the network namespace of the calling thread.
func Open() (*Conn, error) {
	nl, err := nlconn.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	strict, err := nlconn.Open(unix.NETLINK_ROUTE, unix.NETLINK_GET_STRICT_CHK)
	if err != nil {
		nl.Close()
		return nil, err
	}
	return &Conn{nl, strict}, nil
}

// Close closes the sockets.
func (c *Conn) Close() {
	c.nl.Close()
	c.strict.Close()
}

// Links reads all links.
func (c *Conn) Links() ([]Link, error) {
	// Counters are most of what the kernel would send about a link.
	const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS of rtnetlink.h
	request := nlconn.AppendUint32(make([]byte, unix.SizeofIfInfomsg), unix.IFLA_EXT_MASK, skipStats)
	return read(c, "links", unix.RTM_GETLINK, request, decodeLink)
}

// Prefixes reads the IPv4 addresses of all links, with their prefix lengths, by link
// index.
func (c *Conn) Prefixes() (map[int][]netip.Prefix, error) {
	list, err := read(c, "addresses", unix.RTM_GETADDR, ipv4(), decodeAddr)
	if err != nil {
		return nil, err
	}
	all := map[int][]netip.Prefix{}
	for _, a := range list {
		if a.prefix.IsValid() {
			all[a.link] = append(all[a.link], a.prefix)
		}
	}
	return all, nil
}

// Rules reads the IPv4 ip rules in the order in which the kernel evaluates them.
func (c *Conn) Rules() ([]Rule, error) {
	return read(c, "ip rules", unix.RTM_GETRULE, ipv4(), decodeRule)
}

// Routes reads the IPv4 routes of all tables.
func (c *Conn) Routes() ([]Route, error) {
	return read(c, "routes", unix.RTM_GETROUTE, ipv4(), decodeRoute)
}

// RoutesOf reads the IPv4 routes of one table. The cost does not depend on the number
// of routes in other tables.
func (c *Conn) RoutesOf(table uint32) ([]Route, error) {
	request := nlconn.AppendUint32(ipv4(), unix.RTA_TABLE, table)
	list, err := nlconn.List(c.strict, unix.RTM_GETROUTE, request, decodeRoute)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // nobody has added a route to this table yet
	}
	if err != nil {
		return nil, fmt.Errorf("read routes of table %d: %w", table, err)
	}
	return list, nil
}

// Neighbours reads the IPv4 neighbours.
func (c *Conn) Neighbours() ([]Neighbour, error) {
	return read(c, "neighbours", unix.RTM_GETNEIGH, ipv4(), decodeNeighbour)
}

// ipv4 is a request for all IPv4 objects. The headers (ifaddrmsg, rtmsg, ndmsg,
// fib_rule_hdr) begin with the family, and none is longer than this.
func ipv4() []byte { return append([]byte{unix.AF_INET}, make([]byte, unix.SizeofRtMsg-1)...) }

func read[T any](c *Conn, what string, kind int, request []byte, decode func([]byte) (T, error)) ([]T, error) {
	list, err := nlconn.List(c.nl, kind, request, decode)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return list, nil
}

// An addr is an address of a link.
type addr struct {
	link   int // the index
	prefix netip.Prefix
}

// decodeAddr decodes an ifaddrmsg and its attributes (rtnetlink(7)).
func decodeAddr(b []byte) (a addr, err error) {
	const bitsAt, indexAt = 1, 4
	if len(b) < unix.SizeofIfAddrmsg {
		return a, fmt.Errorf("a message of %d bytes", len(b))
	}
	a.link = int(binary.NativeEndian.Uint32(b[indexAt:]))
	err = nlconn.Attrs(b[unix.SizeofIfAddrmsg:], func(at *nlconn.Attr) {
		// IFA_LOCAL is the address of the link itself. On a point-to-point link,
		// IFA_ADDRESS is the address of the other end.
		if at.Kind != unix.IFA_LOCAL {
			return
		}
		if ip := at.Addr(); ip.Is4() {
			a.prefix = netip.PrefixFrom(ip, int(b[bitsAt]))
		}
	})
	return a, err
}

// SetRouteLocalnet sets the sysctl route_localnet of a link. It needs CAP_NET_ADMIN but
// no file under /proc/sys: inet_set_link_af in the kernel's net/ipv4/devinet.c accepts
// all sysctls of a link by number. A missing link is not an error.
func (c *Conn) SetRouteLocalnet(index int, on bool) error {
	value := uint32(0)
	if on {
		value = 1
	}
	request := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(request[4:], uint32(index))
	request = nlconn.AppendNested(request, unix.IFLA_AF_SPEC, func(b []byte) []byte {
		return nlconn.AppendNested(b, unix.AF_INET, func(b []byte) []byte {
			return nlconn.AppendNested(b, inetConf, func(b []byte) []byte {
				return nlconn.AppendUint32(b, confRouteLocalnet, value)
			})
		})
	})
	err := c.nl.Do(unix.RTM_SETLINK, 0, request)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("set route_localnet of link %d: %w", index, err)
	}
	return nil
}
