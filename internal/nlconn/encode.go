package nlconn

import "encoding/binary"

// Append appends an attribute to a request.
func Append(b []byte, kind uint16, data []byte) []byte {
	return AppendNested(b, kind, func(b []byte) []byte { return append(b, data...) })
}

// AppendUint8 appends an attribute that is a number of 8 bits.
func AppendUint8(b []byte, kind uint16, n uint8) []byte { return Append(b, kind, []byte{n}) }

// AppendUint16BE appends an attribute that is a number of 16 bits in network byte
// order, as ports are.
func AppendUint16BE(b []byte, kind uint16, n uint16) []byte {
	return Append(b, kind, binary.BigEndian.AppendUint16(nil, n))
}

// AppendUint32 appends an attribute that is a number of 32 bits in the byte order
// of this machine.
func AppendUint32(b []byte, kind uint16, n uint32) []byte {
	return Append(b, kind, binary.NativeEndian.AppendUint32(nil, n))
}

// AppendUint32BE appends a number as nftables has it, in the network's byte order.
func AppendUint32BE(b []byte, kind uint16, n uint32) []byte {
	return Append(b, kind, binary.BigEndian.AppendUint32(nil, n))
}

// AppendText appends an attribute that is a string and its zero byte.
func AppendText(b []byte, kind uint16, s string) []byte {
	return Append(b, kind, append([]byte(s), 0))
}

// AppendNested appends an attribute that consists of what inside appends.
func AppendNested(b []byte, kind uint16, inside func(b []byte) []byte) []byte {
	at := len(b)
	b = inside(append(b, 0, 0, 0, 0))
	binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at))
	binary.NativeEndian.PutUint16(b[at+2:], kind)
	return append(b, make([]byte, aligned(len(b)-at)-(len(b)-at))...)
}
