package nft

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// An attr is an attribute of a netlink message (struct nlattr). It refers to the
// message, where the libraries' decoders copy: of a ruleset with thousands of
// rules the copies cost more than all the rest.
type attr struct {
	kind uint16
	data []byte
	err  error // ends the iteration
}

// nfgenmsg is the length of struct nfgenmsg, with which each message begins.
const nfgenmsg = 4

// attributes calls each with the attributes of a message after its nfgenmsg.
func attributes(msg []byte, each func(a *attr)) (family byte, err error) {
	if len(msg) < nfgenmsg {
		return 0, fmt.Errorf("a message of %d bytes", len(msg))
	}
	return msg[0], nested(msg[nfgenmsg:], each)
}

// nested calls each with the attributes in b.
func nested(b []byte, each func(a *attr)) error {
	const header, align = 4, 4
	var a attr
	for len(b) > 0 {
		if len(b) < header {
			return fmt.Errorf("%d bytes behind the last attribute", len(b))
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < header || n > len(b) {
			return fmt.Errorf("an attribute of %d bytes in %d", n, len(b))
		}
		a.kind = binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		a.data = b[header:n]
		if each(&a); a.err != nil {
			return a.err
		}
		b = b[min((n+align-1)&^(align-1), len(b)):]
	}
	return nil
}

// do goes on inside of the attribute.
func (a *attr) do(fn func(b []byte) error) { a.err = fn(a.data) }

// text is a string that ends with its first zero byte.
func (a *attr) text() string { return unix.ByteSliceToString(a.data) }

// number is a number of 32 bits in network byte order.
func (a *attr) number() uint32 {
	if len(a.data) != 4 {
		a.err = fmt.Errorf("a number of %d bytes", len(a.data))
		return 0
	}
	return binary.BigEndian.Uint32(a.data)
}

// number64 is a number of 64 bits in network byte order.
func (a *attr) number64() uint64 {
	if len(a.data) != 8 {
		a.err = fmt.Errorf("a number of %d bytes", len(a.data))
		return 0
	}
	return binary.BigEndian.Uint64(a.data)
}
