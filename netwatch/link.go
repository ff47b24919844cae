package netwatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Link is what wslmirror needs to know of a network interface.
type Link struct {
	Name string
	// Index is the kernel's number for the link, 0 if there is no such link.
	// A link that is deleted and made again comes back with another index.
	Index int
	// Up says that the link is administratively up.
	Up bool
	// Kind is the driver of a virtual link, for example "bridge" or "veth", and
	// "" of others.
	Kind string
	// Master is the index of the link that this one is a port of, for example of
	// a bridge, and 0 if there is none. What comes in by a port of a bridge has
	// come in by the bridge, for the hooks.
	Master int
	// Forwarding is the sysctl forwarding: what comes in by this link may leave by
	// another.
	Forwarding bool
	// RouteLocalnet is the sysctl route_localnet: packets to and from
	// 127.0.0.0/8 may pass by this link.
	RouteLocalnet bool
}

// Present reports whether the link exists.
func (l Link) Present() bool { return l.Index != 0 }

// Find returns the link of that name, which is not Present if there is none.
func Find(links []Link, name string) Link {
	for _, l := range links {
		if l.Name == name {
			return l
		}
	}
	return Link{Name: name}
}

// readTimeout bounds one question to the kernel. The answer takes less than a
// millisecond, but waits while somebody holds the kernel's lock on all links.
const readTimeout = 2 * time.Second

// A LinkReader reads links. It keeps its socket, because to open one takes
// longer than to read.
type LinkReader struct{ conn *netlink.Conn }

// OpenLinks opens the socket, in the network namespace of the calling thread.
func OpenLinks() (*LinkReader, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &LinkReader{conn}, nil
}

// Close closes the socket.
func (r *LinkReader) Close() error { return r.conn.Close() }

// Read reads all links. After an error the LinkReader should be closed, since a
// late answer may be in its socket.
func (r *LinkReader) Read() ([]Link, error) {
	// Counters are most of what the kernel would send of a link.
	const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS of rtnetlink.h
	mask, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.IFLA_EXT_MASK, Data: binary.NativeEndian.AppendUint32(nil, skipStats)},
	})
	if err != nil {
		return nil, err
	}
	msgs, err := r.dump(unix.RTM_GETLINK, append(make([]byte, unix.SizeofIfInfomsg), mask...))
	if err != nil {
		return nil, fmt.Errorf("read links: %w", err)
	}
	links := make([]Link, 0, len(msgs))
	for _, m := range msgs {
		l, err := decodeLink(m.Data)
		if err != nil {
			return nil, fmt.Errorf("decode link: %w", err)
		}
		links = append(links, l)
	}
	return links, nil
}

// dumpTries is how often a dump is asked for that changes meanwhile.
const dumpTries = 4

// dump asks for all objects of a kind. One that has changed meanwhile may lack some
// that were there all the time (NLM_F_DUMP_INTR), so it is asked for
// again; the last counts, since a change is an event.
func (r *LinkReader) dump(kind netlink.HeaderType, request []byte) (msgs []netlink.Message, err error) {
	for range dumpTries {
		if err := r.conn.SetDeadline(time.Now().Add(readTimeout)); err != nil {
			return nil, fmt.Errorf("set the deadline of netlink: %w", err)
		}
		msgs, err = r.conn.Execute(netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Dump}, Data: request,
		})
		if err != nil || !slices.ContainsFunc(msgs, func(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }) {
			break
		}
	}
	return msgs, err
}

// decodeLink decodes an ifinfomsg and its attributes (rtnetlink(7)).
func decodeLink(b []byte) (l Link, err error) {
	const indexAt, flagsAt = 4, 8
	if len(b) < unix.SizeofIfInfomsg {
		return l, fmt.Errorf("a message of %d bytes", len(b))
	}
	l.Index = int(int32(binary.NativeEndian.Uint32(b[indexAt:])))
	l.Up = binary.NativeEndian.Uint32(b[flagsAt:])&unix.IFF_UP != 0
	err = attributes(b[unix.SizeofIfInfomsg:], func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.IFLA_IFNAME:
			l.Name = ad.String()
		case unix.IFLA_MASTER:
			l.Master = int(ad.Uint32())
		case unix.IFLA_LINKINFO:
			nested(ad, unix.IFLA_INFO_KIND, func(ad *netlink.AttributeDecoder) { l.Kind = ad.String() })
		case unix.IFLA_AF_SPEC:
			nested(ad, unix.AF_INET, func(ad *netlink.AttributeDecoder) {
				nested(ad, inetConf, func(ad *netlink.AttributeDecoder) {
					l.Forwarding, l.RouteLocalnet = isSet(ad.Bytes(), confForwarding), isSet(ad.Bytes(), confRouteLocalnet)
				})
			})
		}
	})
	return l, err
}

const (
	inetConf = 1 // IFLA_INET_CONF of if_link.h
	// The numbers of sysctls, IPV4_DEVCONF_* of linux/ip.h.
	confForwarding    = 1
	confRouteLocalnet = 26
)

// isSet reports whether the sysctl of that number is not 0. The values of all
// follow one another, beginning with number 1.
func isSet(conf []byte, number int) bool {
	at := (number - 1) * 4
	return len(conf) >= at+4 && binary.NativeEndian.Uint32(conf[at:]) != 0
}

func attributes(b []byte, each func(ad *netlink.AttributeDecoder)) error {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return err
	}
	for ad.Next() {
		each(ad)
	}
	return ad.Err()
}

// nested calls each for the attribute of that type inside of ad's.
func nested(ad *netlink.AttributeDecoder, attr uint16, each func(ad *netlink.AttributeDecoder)) {
	ad.Do(func(b []byte) error {
		return attributes(b, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == attr {
				each(ad)
			}
		})
	})
}

// CheckLinkName says why name cannot be the name of a link, or nil. The rules
// are those of dev_valid_name in the kernel's net/core/dev.c, and that the name can
// be seen: it is shown to people.
func CheckLinkName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) >= unix.IFNAMSIZ:
		return fmt.Errorf("the name has %d bytes, the kernel takes at most %d", len(name), unix.IFNAMSIZ-1)
	case name == "." || name == "..":
		return fmt.Errorf("%q is not a name", name)
	}
	for _, r := range name {
		if r == '/' || r == ':' || r == ' ' || r == utf8.RuneError || !unicode.IsPrint(r) {
			return fmt.Errorf("the name must not contain %q", r)
		}
	}
	return nil
}
