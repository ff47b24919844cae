// Package nlconn asks the kernel questions over netlink, and decodes the
// attributes of what it answers.
//
// It is a thin layer over github.com/vishvananda/netlink/nl that adds what every
// caller here needs: a socket that is kept, a bound on the kernel's silence, and
// dumps that are not believed when they were interrupted.
package nlconn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Silence is how long the kernel may say nothing before a question fails. A dump
// may take longer than that in all: each of its parts starts the time again.
const Silence = 2 * time.Second

// ErrSilent says that the kernel did not answer within Silence.
var ErrSilent = fmt.Errorf("the kernel did not answer within %v", Silence)

// ErrInterrupted says that the objects changed while they were dumped, so that
// some that were there all the time may be missing (NLM_F_DUMP_INTR).
var ErrInterrupted = nl.ErrDumpInterrupted

// A Conn is a netlink socket. It answers one question at a time, and stays usable
// after an error: late answers to earlier questions are passed over.
type Conn struct {
	protocol int
	sock     *nl.NetlinkSocket // nil after a dump that was cut short
	port     uint32
	seq      uint32
}

// Open opens a socket of a protocol, for example unix.NETLINK_ROUTE, in the
// network namespace of the calling thread.
func Open(protocol int) (*Conn, error) {
	c := &Conn{protocol: protocol}
	return c, c.open()
}

func (c *Conn) open() error {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), c.protocol)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	timeout := unix.NsecToTimeval(Silence.Nanoseconds())
	if err := errors.Join(s.SetSendTimeout(&timeout), s.SetReceiveTimeout(&timeout)); err != nil {
		s.Close()
		return fmt.Errorf("set the timeout of netlink: %w", err)
	}
	port, err := s.GetPid()
	if err != nil {
		s.Close()
		return fmt.Errorf("get the address of netlink: %w", err)
	}
	c.sock, c.port = s, port
	return nil
}

// Close closes the socket.
func (c *Conn) Close() {
	if c.sock != nil {
		c.sock.Close()
		c.sock = nil
	}
}

// Each dumps all objects of a kind, for example unix.RTM_GETLINK, and calls each
// with every message until it returns false. That ends the dump, for which the
// socket is closed: the next question opens another, in the network namespace of
// its own thread. The error is ErrInterrupted if the dump was.
func (c *Conn) Each(kind int, request []byte, each func(msg []byte) bool) error {
	return c.execute(kind, unix.NLM_F_DUMP, request, each)
}

// dumpTries bounds how often Dump asks for objects that never rest.
const dumpTries = 4

// Dump dumps all objects of a kind. An interrupted dump is asked for again; the
// last of several counts, because what interrupted it is an event.
func (c *Conn) Dump(kind int, request []byte) ([][]byte, error) {
	return dump(func(each func([]byte) bool) error { return c.Each(kind, request, each) })
}

func dump(ask func(each func([]byte) bool) error) (msgs [][]byte, err error) {
	for range dumpTries {
		msgs = nil
		err = ask(func(msg []byte) bool {
			msgs = append(msgs, msg)
			return true
		})
		if !errors.Is(err, ErrInterrupted) {
			return msgs, err
		}
	}
	return msgs, nil
}

// Ask asks for one object and returns the kernel's answer.
func (c *Conn) Ask(kind int, request []byte) (answer []byte, err error) {
	err = c.execute(kind, 0, request, func(msg []byte) bool {
		answer = msg
		return true
	})
	return answer, err
}

// Do has the kernel change something, and waits until it has. flags are for
// example unix.NLM_F_CREATE.
func (c *Conn) Do(kind, flags int, request []byte) error {
	return c.execute(kind, flags|unix.NLM_F_ACK, request, func([]byte) bool { return true })
}

// execute sends a request and calls each with the answers.
func (c *Conn) execute(kind, flags int, request []byte, each func([]byte) bool) error {
	if c.sock == nil {
		if err := c.open(); err != nil {
			return err
		}
	}
	c.seq++
	req := nl.NewNetlinkRequest(kind, flags)
	req.Seq = c.seq
	req.AddRawData(request)
	if err := c.sock.Send(req); err != nil {
		return silent(err)
	}
	interrupted := false
	for {
		msgs, from, err := c.sock.Receive()
		if err != nil {
			return silent(err)
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		for _, m := range msgs {
			if m.Header.Seq != c.seq || m.Header.Pid != c.port {
				continue // a late answer to another question
			}
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if err := errno(m.Data); err != nil {
					return err
				}
				if interrupted {
					return ErrInterrupted
				}
				return nil
			}
			if !each(m.Data) {
				c.Close()
				return nil
			}
			if m.Header.Flags&unix.NLM_F_MULTI == 0 && flags&unix.NLM_F_ACK == 0 {
				return nil
			}
		}
	}
}

// errno is the error in a message that ends an answer, nil if there is none.
func errno(data []byte) error {
	if len(data) < 4 {
		return nil
	}
	if n := int32(binary.NativeEndian.Uint32(data)); n != 0 {
		return unix.Errno(-n)
	}
	return nil
}

// silent names the timeout, of which the library makes EAGAIN.
func silent(err error) error {
	if errors.Is(err, unix.EAGAIN) {
		return ErrSilent
	}
	return err
}

// Send sends messages in one piece. It is for a batch of nfnetlink, which the
// kernel carries out before it returns.
func (c *Conn) Send(batch []byte) error {
	if c.sock == nil {
		if err := c.open(); err != nil {
			return err
		}
	}
	return silent(unix.Sendto(c.sock.GetFd(), batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}
