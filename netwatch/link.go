package netwatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
	"github.com/wslmirror/wslmirror/internal/text"
)

// A Link is a network interface, as far as wslmirror needs it.
type Link struct {
	Name string
	// Index is the kernel's number for the link, 0 if the link does not exist. A link
	// that is deleted and created again has another index.
	Index int
	// Up says that the link is administratively up.
	Up bool
	// Kind is the driver of a virtual link, for example "bridge" or "veth", and "" for
	// others.
	Kind string
	// Master is the index of the link that this one is a port of, for example of a
	// bridge, and 0 if there is none. For the netfilter hooks, packets that arrive on a
	// bridge port arrive on the bridge.
	Master int
	// Forwarding is the sysctl forwarding: packets that arrive on this link may leave
	// through another one.
	Forwarding bool
	// RouteLocalnet is the sysctl route_localnet: packets to and from 127.0.0.0/8 may
	// pass this link.
	RouteLocalnet bool
}

// Present reports whether the link exists.
func (l Link) Present() bool { return l.Index != 0 }

// Find returns the link with that name. It is not Present if there is none.
func Find(links []Link, name string) Link {
	for _, l := range links {
		if l.Name == name {
			return l
		}
	}
	return Link{Name: name}
}

// decodeLink decodes an ifinfomsg and its attributes (rtnetlink(7)).
func decodeLink(b []byte) (l Link, err error) {
	const indexAt, flagsAt = 4, 8
	if len(b) < unix.SizeofIfInfomsg {
		return l, fmt.Errorf("a message of %d bytes", len(b))
	}
	l.Index = int(int32(binary.NativeEndian.Uint32(b[indexAt:])))
	l.Up = binary.NativeEndian.Uint32(b[flagsAt:])&unix.IFF_UP != 0
	err = nlconn.Attrs(b[unix.SizeofIfInfomsg:], func(a *nlconn.Attr) {
		switch a.Kind {
		case unix.IFLA_IFNAME:
			l.Name = a.Text()
		case unix.IFLA_MASTER:
			l.Master = int(a.Uint32())
		case unix.IFLA_LINKINFO:
			inside(a, unix.IFLA_INFO_KIND, func(a *nlconn.Attr) { l.Kind = a.Text() })
		case unix.IFLA_AF_SPEC:
			inside(a, unix.AF_INET, func(a *nlconn.Attr) {
				inside(a, inetConf, func(a *nlconn.Attr) {
					l.Forwarding, l.RouteLocalnet = isSet(a.Data, confForwarding), isSet(a.Data, confRouteLocalnet)
				})
			})
		}
	})
	return l, err
}

// inside calls each for the attributes of that kind inside a.
func inside(a *nlconn.Attr, kind uint16, each func(a *nlconn.Attr)) {
	a.Nested(func(a *nlconn.Attr) {
		if a.Kind == kind {
			each(a)
		}
	})
}

const (
	inetConf = 1 // IFLA_INET_CONF of if_link.h
	// Numbers of sysctls, IPV4_DEVCONF_* of linux/ip.h.
	confForwarding    = 1
	confRouteLocalnet = 26
)

// isSet reports whether the sysctl with that number is not 0. conf contains the values
// of all sysctls in order, starting with number 1.
func isSet(conf []byte, number int) bool {
	at := (number - 1) * 4
	return len(conf) >= at+4 && binary.NativeEndian.Uint32(conf[at:]) != 0
}

// CheckLinkName returns why name cannot be the name of a link, or nil. The rules are
// those of dev_valid_name in the kernel's net/core/dev.c. In addition, all characters
// must be visible, because the name is shown to people.
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
		if r == '/' || r == ':' || r == ' ' || r == utf8.RuneError || !text.Visible(r) {
			return fmt.Errorf("the name must not contain %q", r)
		}
	}
	return nil
}
