package netwatch

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
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
}

// Present reports whether the link exists.
func (l Link) Present() bool { return l.Index != 0 }

// readTimeout bounds one question to the kernel. The answer takes less than a
// millisecond, but waits while somebody holds the kernel's lock on all links.
const readTimeout = 2 * time.Second

// Links reads links. It keeps its socket, because to open one takes longer than
// to read a link.
type Links struct{ handle *netlink.Handle }

// OpenLinks opens the socket, in the network namespace of the calling thread.
func OpenLinks() (*Links, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if err := h.SetSocketTimeout(readTimeout); err != nil {
		h.Close()
		return nil, fmt.Errorf("set the timeout of netlink: %w", err)
	}
	return &Links{h}, nil
}

// Close closes the socket.
func (l *Links) Close() { l.handle.Close() }

// Find reads the link of that name. That there is none is not an error. After
// an error the socket should be closed, since a late answer may be in it.
func (l *Links) Find(name string) (Link, error) {
	link, err := l.handle.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return Link{Name: name}, nil
	}
	if err != nil {
		return Link{}, fmt.Errorf("read link %s: %w", name, err)
	}
	attrs := link.Attrs()
	if attrs.Name != name {
		// The kernel also finds a link by its alternative names, but nft prints
		// and WSL knows only the real one.
		return Link{Name: name}, nil
	}
	return Link{Name: name, Index: attrs.Index, Up: attrs.RawFlags&unix.IFF_UP != 0}, nil
}

// CheckLinkName says why name cannot be the name of a link, or nil. The rules
// are those of dev_valid_name in the kernel's net/core/dev.c.
func CheckLinkName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) >= unix.IFNAMSIZ:
		return fmt.Errorf("the name has %d bytes, the kernel takes at most %d", len(name), unix.IFNAMSIZ-1)
	case name == "." || name == "..":
		return fmt.Errorf("%q is not a name", name)
	}
	if i := strings.IndexFunc(name, func(r rune) bool {
		return r == '/' || r == ':' || r <= ' ' || r == 0x7f
	}); i >= 0 {
		return fmt.Errorf("the name must not contain %q", name[i])
	}
	return nil
}
