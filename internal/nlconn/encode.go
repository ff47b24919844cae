package nlconn

import "encoding/binary"

// Append appends an attribute to a request.
func Append(b []byte, kind uint16, data []byte) []byte {
	return AppendNested(b, kind, func(b []byte) []byte { return append(b, data...) })
}

// AppendUint8 appends an 8-bit number.
func AppendUint8(b []byte, kind uint16, n uint8) []byte { return Append(b, kind, []byte{n}) }

// AppendUint16BE appends a 16-bit number in network byte order, for example a port.
func AppendUint16BE(b []byte, kind uint16, n uint16) []byte {
	return Append(b, kind, binary.BigEndian.AppendUint16(nil, n))
}

// AppendUint32 appends a 32-bit number in the byte order of this machine.
func AppendUint32(b []byte, kind uint16, n uint32) []byte {
	return Append(b, kind, binary.NativeEndian.AppendUint32(nil, n))
}

// AppendUint32BE appends a 32-bit number in network byte order, as nftables uses it.
func AppendUint32BE(b []byte, kind uint16, n uint32) []byte {
	return Append(b, kind, binary.BigEndian.AppendUint32(nil, n))
}

// AppendText appends a string with a final zero byte.
func AppendText(b []byte, kind uint16, s string) []byte {
	return Append(b, kind, append([]byte(s), 0))
}

// AppendNested appends an attribute that contains what inside appends.
func AppendNested(b []byte, kind uint16, inside func(b []byte) []byte) []byte {
	at := len(b)
	b = inside(append(b, 0, 0, 0, 0))
	binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at))
	binary.NativeEndian.PutUint16(b[at+2:], kind)
	return append(b, make([]byte, aligned(len(b)-at)-(len(b)-at))...)
}
