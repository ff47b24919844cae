package nlconn

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// An Attr is an attribute of a netlink message (struct nlattr). It refers to the
// message, where the libraries' decoders copy: of a ruleset with thousands of
// rules the copies cost more than all the rest.
type Attr struct {
	Kind uint16
	Data []byte
	err  error // ends the iteration
}

// nfgenmsg is the length of struct nfgenmsg, with which each message begins.
const nfgenmsg = 4

// GenAttrs calls each with the attributes of a message of nfnetlink, whose header
// begins with the family.
func GenAttrs(msg []byte, each func(a *Attr)) (family byte, err error) {
	if len(msg) < nfgenmsg {
		return 0, fmt.Errorf("a message of %d bytes", len(msg))
	}
	return msg[0], Attrs(msg[nfgenmsg:], each)
}

// Attrs calls each with the attributes in b.
func Attrs(b []byte, each func(a *Attr)) error {
	const header, align = 4, 4
	var a Attr
	for len(b) > 0 {
		if len(b) < header {
			return fmt.Errorf("%d bytes behind the last attribute", len(b))
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < header || n > len(b) {
			return fmt.Errorf("an attribute of %d bytes in %d", n, len(b))
		}
		a.Kind = binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		a.Data = b[header:n]
		if each(&a); a.err != nil {
			return a.err
		}
		b = b[min((n+align-1)&^(align-1), len(b)):]
	}
	return nil
}

// Do goes on inside of the attribute.
func (a *Attr) Do(fn func(b []byte) error) { a.err = fn(a.Data) }

// Text is a string that ends with its first zero byte.
func (a *Attr) Text() string { return unix.ByteSliceToString(a.Data) }

// Uint32BE is a number of 32 bits in network byte order.
func (a *Attr) Uint32BE() uint32 {
	if len(a.Data) != 4 {
		a.err = fmt.Errorf("a number of %d bytes", len(a.Data))
		return 0
	}
	return binary.BigEndian.Uint32(a.Data)
}

// Uint64BE is a number of 64 bits in network byte order.
func (a *Attr) Uint64BE() uint64 {
	if len(a.Data) != 8 {
		a.err = fmt.Errorf("a number of %d bytes", len(a.Data))
		return 0
	}
	return binary.BigEndian.Uint64(a.Data)
}

// Uint32 is a number of 32 bits in the byte order of this machine.
func (a *Attr) Uint32() uint32 {
	if len(a.Data) != 4 {
		a.err = fmt.Errorf("a number of %d bytes", len(a.Data))
		return 0
	}
	return binary.NativeEndian.Uint32(a.Data)
}

// Nested calls each with the attributes inside of a.
func (a *Attr) Nested(each func(a *Attr)) { a.err = Attrs(a.Data, each) }
