package nlconn

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// attrHeader is the length of struct nlattr.
const attrHeader = 4

// aligned rounds up to NLMSG_ALIGNTO, which equals NLA_ALIGNTO.
func aligned(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// Next splits off the first attribute of b, which must not be empty. It does not copy
// or allocate: with a hundred thousand flows every allocation counts.
func Next(b []byte) (kind uint16, data, rest []byte, err error) {
	if len(b) < attrHeader {
		return 0, nil, nil, fmt.Errorf("%d bytes behind the last attribute", len(b))
	}
	n := int(binary.NativeEndian.Uint16(b))
	if n < attrHeader || n > len(b) {
		return 0, nil, nil, fmt.Errorf("an attribute of %d bytes in %d", n, len(b))
	}
	kind = binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	return kind, b[attrHeader:n], b[min(aligned(n), len(b)):], nil
}

// An Attr is an attribute of a netlink message (struct nlattr). It refers to the
// message. The libraries' decoders copy instead, and for a ruleset with thousands of
// rules the copies cost more than everything else.
type Attr struct {
	Kind uint16
	Data []byte
	err  error // ends the iteration
}

// Attrs calls each with the attributes in b.
func Attrs(b []byte, each func(a *Attr)) (err error) {
	var a Attr
	for len(b) > 0 {
		if a.Kind, a.Data, b, err = Next(b); err != nil {
			return err
		}
		if each(&a); a.err != nil {
			return a.err
		}
	}
	return nil
}

// GenHeader is the length of struct nfgenmsg.
const GenHeader = 4

// GenAttrs calls each with the attributes of an nfnetlink message. The family is the
// first byte of its header (struct nfgenmsg).
func GenAttrs(msg []byte, each func(a *Attr)) (family byte, err error) {
	if len(msg) < GenHeader {
		return 0, fmt.Errorf("a message of %d bytes", len(msg))
	}
	return msg[0], Attrs(msg[GenHeader:], each)
}

// Do calls fn with the content of the attribute. An error ends the iteration.
func (a *Attr) Do(fn func(b []byte) error) { a.err = fn(a.Data) }

// Nested calls each with the attributes inside a.
func (a *Attr) Nested(each func(a *Attr)) { a.err = Attrs(a.Data, each) }

// Text returns a string that ends at its first zero byte.
func (a *Attr) Text() string { return unix.ByteSliceToString(a.Data) }

// Addr returns an IP address.
func (a *Attr) Addr() netip.Addr {
	addr, ok := netip.AddrFromSlice(a.Data)
	if !ok {
		a.err = fmt.Errorf("an address of %d bytes", len(a.Data))
	}
	return addr
}

// sized reports whether the attribute has n bytes. Otherwise the iteration ends.
func (a *Attr) sized(n int) bool {
	if len(a.Data) != n {
		a.err = fmt.Errorf("a number of %d bytes", len(a.Data))
	}
	return len(a.Data) == n
}

// Uint8 returns an 8-bit number.
func (a *Attr) Uint8() uint8 {
	if !a.sized(1) {
		return 0
	}
	return a.Data[0]
}

// Uint32 returns a 32-bit number in the byte order of this machine.
func (a *Attr) Uint32() uint32 {
	if !a.sized(4) {
		return 0
	}
	return binary.NativeEndian.Uint32(a.Data)
}

// Uint32BE returns a 32-bit number in network byte order.
func (a *Attr) Uint32BE() uint32 {
	if !a.sized(4) {
		return 0
	}
	return binary.BigEndian.Uint32(a.Data)
}
