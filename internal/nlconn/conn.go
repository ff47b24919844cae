// Package nlconn sends requests to the kernel over netlink. It encodes and decodes the
// attributes of messages, limits how long the kernel may be silent, and repeats
// interrupted dumps.
package nlconn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Silence is how long the kernel may be silent before a request fails. A dump may take
// longer in total, because each of its parts restarts the time. Silence does not limit
// the time spent waiting for a kernel lock inside sendto(2).
const Silence = 2 * time.Second

// ErrSilent says that the kernel did not answer within Silence.
var ErrSilent = fmt.Errorf("the kernel did not answer within %v", Silence)

// ErrInterrupted says that objects changed while the kernel listed them
// (NLM_F_DUMP_INTR). Objects that existed all the time may be missing from the list.
var ErrInterrupted = errors.New("the objects changed while the kernel listed them")

// A Conn is a netlink socket for one request at a time. It is not safe for concurrent
// use.
//
// An error in the kernel's answer is a unix.Errno and does not harm the socket. After
// any other error, and after a dump that was ended early, the rest of the answer would
// get in the way. So the socket is closed, and the next request opens another one in
// the network namespace of its own thread. Therefore a Conn must not own anything that
// lives as long as its socket, such as an owned table.
type Conn struct {
	open func() (socket, error)
	sock socket // nil: the next request opens one
	seq  uint32

	request, answer []byte // buffers
}

// answerSize is twice what the kernel puts at most into one part of a dump if the
// reader's buffer is that large (netlink_recvmsg in net/netlink/af_netlink.c). Twice,
// because a single message may be longer.
const answerSize = 64 << 10

// Open opens a socket for a protocol, for example unix.NETLINK_ROUTE, in the network
// namespace of the calling thread. options are of the level SOL_NETLINK, for example
// unix.NETLINK_GET_STRICT_CHK, which makes the kernel filter dumps.
func Open(protocol int, options ...int) (*Conn, error) {
	c := &Conn{open: func() (socket, error) { return openSocket(protocol, options...) }}
	if err := c.connect(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Conn) connect() (err error) {
	if c.sock == nil {
		c.sock, err = c.open()
	}
	return err
}

// Close closes the socket.
func (c *Conn) Close() {
	if c.sock != nil {
		c.sock.Close()
		c.sock = nil
	}
}

// Each dumps all objects of a kind, for example unix.RTM_GETLINK, and calls each with
// every message until it returns false. A message is valid until each returns: the next
// part of the dump overwrites it. If the dump was interrupted, Each still delivers all
// messages and then returns ErrInterrupted.
func (c *Conn) Each(kind int, request []byte, each func(msg []byte) bool) error {
	return c.execute(kind, unix.NLM_F_DUMP, request, each)
}

// Dump dumps all objects of a kind. An interrupted dump is repeated, see List.
func (c *Conn) Dump(kind int, request []byte) ([][]byte, error) {
	var room []byte
	return List(c, kind, request, func(msg []byte) ([]byte, error) {
		// Small messages share an allocation.
		if cap(room)-len(room) < len(msg) {
			room = make([]byte, 0, max(answerSize/2, len(msg)))
		}
		at := len(room)
		room = append(room, msg...)
		return room[at:len(room):len(room)], nil
	})
}

// dumpTries limits how often a dump is read if the objects keep changing.
const dumpTries = 4

// List dumps all objects of a kind and decodes each message, which is valid until
// decode returns. An interrupted dump may lack objects, so it is repeated. After
// dumpTries the last result counts: whatever interrupts a dump also causes an event, so
// a watcher lists the objects once more.
func List[T any](c *Conn, kind int, request []byte, decode func(msg []byte) (T, error)) (list []T, err error) {
	for range dumpTries {
		list = list[:0]
		var broken error
		err = c.Each(kind, request, func(msg []byte) bool {
			var v T
			if v, broken = decode(msg); broken == nil {
				list = append(list, v)
			}
			return broken == nil
		})
		if broken != nil {
			return nil, fmt.Errorf("decode: %w", broken)
		}
		if !errors.Is(err, ErrInterrupted) {
			break
		}
	}
	if err != nil && !errors.Is(err, ErrInterrupted) {
		return nil, err
	}
	return list, nil
}

// Ask requests one object and returns the kernel's answer.
func (c *Conn) Ask(kind int, request []byte) (answer []byte, err error) {
	err = c.execute(kind, 0, request, func(msg []byte) bool {
		answer = append([]byte{}, msg...)
		return true
	})
	return answer, err
}

// Do makes the kernel change something and waits for the result. flags are for example
// unix.NLM_F_CREATE.
func (c *Conn) Do(kind, flags int, request []byte) error {
	return c.execute(kind, flags|unix.NLM_F_ACK, request, func([]byte) bool { return true })
}

// Send sends messages that have headers already, in one write. It is for an nfnetlink
// batch, which the kernel executes before the write returns.
func (c *Conn) Send(batch []byte) error {
	if err := c.connect(); err != nil {
		return err
	}
	return silent(c.send(batch))
}

func (c *Conn) send(b []byte) error {
	if err := c.sock.SetWriteDeadline(time.Now().Add(Silence)); err != nil {
		return err
	}
	_, err := c.sock.Write(b)
	return err
}

// execute sends a request and calls each with the answers.
func (c *Conn) execute(kind, flags int, request []byte, each func([]byte) bool) error {
	if err := c.connect(); err != nil {
		return err
	}
	c.seq++
	c.request = appendMessage(c.request[:0], message{kind: uint16(kind), flags: uint16(unix.NLM_F_REQUEST | flags), seq: c.seq, data: request})
	err := c.send(c.request)
	complete := false
	if err == nil {
		complete, err = c.receive(flags, each)
	}
	if !complete {
		c.Close()
	}
	return silent(err)
}

// receive reads the answers to the last request. It reports whether it has read all of
// them.
func (c *Conn) receive(flags int, each func([]byte) bool) (complete bool, err error) {
	if c.answer == nil {
		c.answer = make([]byte, answerSize)
	}
	heard, interrupted := true, false
	for {
		if heard {
			if err := c.sock.SetReadDeadline(time.Now().Add(Silence)); err != nil {
				return false, err
			}
			heard = false
		}
		n, err := c.sock.Read(c.answer)
		if err != nil {
			return false, err
		}
		for rest := c.answer[:n]; len(rest) > 0; {
			var m message
			if m, rest, err = nextMessage(rest); err != nil {
				return false, err
			}
			if m.seq != c.seq {
				continue // a late answer to another request
			}
			heard = true
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case m.kind == unix.NLMSG_NOOP:
				continue
			case m.kind == unix.NLMSG_OVERRUN:
				return false, errors.New("netlink has lost a part of the answer")
			case m.kind == unix.NLMSG_ERROR || m.kind == unix.NLMSG_DONE:
				if err := errno(m.data); err != nil {
					return true, err
				}
				if interrupted {
					return true, ErrInterrupted
				}
				return true, nil
			case !each(m.data):
				return false, nil
			case m.flags&unix.NLM_F_MULTI == 0 && flags&unix.NLM_F_ACK == 0:
				return true, nil
			}
		}
	}
}

// A message is a netlink message (struct nlmsghdr).
type message struct {
	kind, flags uint16
	seq         uint32
	data        []byte
}

// Message returns a message with its header, for Send.
func Message(kind, flags uint16, data []byte) []byte {
	return appendMessage(nil, message{kind: kind, flags: flags, data: data})
}

func appendMessage(b []byte, m message) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(m.data)))
	b = binary.NativeEndian.AppendUint16(b, m.kind)
	b = binary.NativeEndian.AppendUint16(b, m.flags)
	b = binary.NativeEndian.AppendUint32(b, m.seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // the kernel knows the port
	return append(b, m.data...)
}

// nextMessage splits off the first message of b.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.SizeofNlMsghdr {
		return m, nil, fmt.Errorf("%d bytes behind the last message of netlink", len(b))
	}
	n := binary.NativeEndian.Uint32(b)
	if n < unix.SizeofNlMsghdr || uint64(n) > uint64(len(b)) {
		return m, nil, fmt.Errorf("a message of netlink of %d bytes in %d", n, len(b))
	}
	m = message{
		kind:  binary.NativeEndian.Uint16(b[4:]),
		flags: binary.NativeEndian.Uint16(b[6:]),
		seq:   binary.NativeEndian.Uint32(b[8:]),
		data:  b[unix.SizeofNlMsghdr:n],
	}
	return m, b[min(aligned(int(n)), len(b)):], nil
}

// errno returns the error in the last message of an answer, nil if there is none.
func errno(data []byte) error {
	if len(data) < 4 {
		return nil
	}
	if n := int32(binary.NativeEndian.Uint32(data)); n != 0 {
		return unix.Errno(-n)
	}
	return nil
}

// silent translates the timeout to ErrSilent.
func silent(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrSilent
	}
	return err
}
