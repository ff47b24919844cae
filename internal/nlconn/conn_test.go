package nlconn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// A kernel gives the answers that a test defines. It is a socket.
type kernel struct {
	// answer returns the datagrams that answer request number n, counted from 1. After
	// them the kernel is silent.
	answer func(n int, request message) []datagram

	asked, opened int
	queue         []datagram
	deadline      time.Time
	failSend      error
}

// A datagram is a sequence of messages, sent after a wait.
type datagram struct {
	wait  time.Duration
	bytes []byte
}

func (k *kernel) conn() *Conn {
	return &Conn{open: func() (socket, error) {
		k.opened++
		k.queue = nil // another socket
		return k, nil
	}}
}

func (k *kernel) Write(b []byte) (int, error) {
	if k.failSend != nil {
		return 0, k.failSend
	}
	m, _, err := nextMessage(b)
	if err != nil {
		return 0, err
	}
	k.asked++
	k.queue = append(k.queue, k.answer(k.asked, m)...)
	return len(b), nil
}

func (k *kernel) Read(b []byte) (int, error) {
	if len(k.queue) == 0 || time.Now().Add(k.queue[0].wait).After(k.deadline) {
		time.Sleep(time.Until(k.deadline))
		return 0, os.ErrDeadlineExceeded
	}
	d := k.queue[0]
	k.queue = k.queue[1:]
	time.Sleep(d.wait)
	return copy(b, d.bytes), nil
}

func (k *kernel) SetReadDeadline(t time.Time) error { k.deadline = t; return nil }
func (*kernel) SetWriteDeadline(time.Time) error    { return nil }
func (*kernel) Close() error                        { return nil }

// reply makes a message that answers a request.
func reply(to message, kind, flags uint16, data string) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, to.seq)
	b = binary.NativeEndian.AppendUint32(b, 4711) // the requester's port
	b = append(b, data...)
	return append(b, make([]byte, aligned(len(b))-len(b))...)
}

// parts is a dump of the objects with one datagram for each.
func parts(to message, flags uint16, objects ...string) (list []datagram) {
	for _, o := range objects {
		list = append(list, datagram{bytes: reply(to, unix.RTM_NEWLINK, unix.NLM_F_MULTI|flags, o)})
	}
	return append(list, datagram{bytes: reply(to, unix.NLMSG_DONE, unix.NLM_F_MULTI|flags, "\x00\x00\x00\x00")})
}

func text(msg []byte) (string, error) { return string(msg), nil }

// An object that existed all the time is not missed because others were added or
// removed. Objects that keep changing do not cause endless repetition.
func TestInterruptedDump(t *testing.T) {
	for interrupted, want := range map[int]struct {
		names []string
		asked int
	}{
		0:             {[]string{"lo", "loopback0"}, 1},
		1:             {[]string{"lo", "loopback0"}, 2},
		dumpTries - 1: {[]string{"lo", "loopback0"}, dumpTries},
		dumpTries + 9: {[]string{"lo"}, dumpTries},
	} {
		k := &kernel{answer: func(n int, request message) []datagram {
			if n <= interrupted {
				return parts(request, unix.NLM_F_DUMP_INTR, "lo")
			}
			return parts(request, 0, "lo", "loopback0")
		}}
		got, err := List(k.conn(), unix.RTM_GETLINK, nil, text)
		if err != nil || !slices.Equal(got, want.names) || k.asked != want.asked || k.opened != 1 {
			t.Errorf("interrupted %d times: %q, %v, asked %d times; want %q, %d", interrupted, got, err, k.asked, want.names, want.asked)
		}
	}
}

// Each reports an interruption after the last message, even if only the final message
// is marked.
func TestEachTellsOfTheInterruption(t *testing.T) {
	k := &kernel{answer: func(_ int, request message) []datagram {
		list := parts(request, 0, "lo", "loopback0")
		list[2].bytes = reply(request, unix.NLMSG_DONE, unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR, "\x00\x00\x00\x00")
		return list
	}}
	n := 0
	err := k.conn().Each(unix.RTM_GETLINK, nil, func([]byte) bool { n++; return true })
	if !errors.Is(err, ErrInterrupted) || n != 2 {
		t.Errorf("%d messages, %v", n, err)
	}
}

// Dump keeps the messages, although the parts overwrite one another.
func TestDumpKeepsMessages(t *testing.T) {
	var want []string
	for i := range 2000 {
		want = append(want, fmt.Sprintf("%0*d", 1+i%100, i))
	}
	want = append(want, string(make([]byte, answerSize-100)))
	k := &kernel{answer: func(_ int, request message) []datagram { return parts(request, 0, want...) }}
	msgs, err := k.conn().Dump(unix.RTM_GETLINK, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(msgs, want, func(b []byte, s string) bool { return string(b) == s }) {
		t.Error("the messages differ from what was sent")
	}
}

// Messages left over from an earlier request are not taken for an answer.
func TestStrangeAnswers(t *testing.T) {
	k := &kernel{answer: func(_ int, request message) []datagram {
		late := request
		late.seq--
		return append([]datagram{
			{bytes: reply(late, unix.NLMSG_DONE, unix.NLM_F_MULTI, "\x00\x00\x00\x00")},
			{bytes: reply(request, unix.NLMSG_NOOP, 0, "")},
			{bytes: append(reply(late, unix.RTM_NEWLINK, unix.NLM_F_MULTI, "late"), reply(request, unix.RTM_NEWLINK, unix.NLM_F_MULTI, "lo")...)},
		}, parts(request, 0)...)
	}}
	got, err := List(k.conn(), unix.RTM_GETLINK, nil, text)
	if err != nil || !slices.Equal(got, []string{"lo"}) {
		t.Errorf("%q, %v", got, err)
	}
}

// If the kernel is silent, the request fails, and the next request works. A dump that
// takes long but makes progress is not silence.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := false
		k := &kernel{answer: func(n int, request message) []datagram {
			list := parts(request, 0, "lo", "eth0", "loopback0")
			if slow {
				for i := range list {
					list[i].wait = Silence * 3 / 4
				}
				return list
			}
			if n == 1 {
				return list[:2] // the rest never comes
			}
			return list
		}}
		c := k.conn()
		began := time.Now()
		if _, err := List(c, unix.RTM_GETLINK, nil, text); !errors.Is(err, ErrSilent) || time.Since(began) != Silence {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if got, err := List(c, unix.RTM_GETLINK, nil, text); err != nil || len(got) != 3 || k.opened != 2 {
			t.Errorf("then %q, %v, by socket %d", got, err, k.opened)
		}
		slow = true
		if got, err := List(c, unix.RTM_GETLINK, nil, text); err != nil || len(got) != 3 {
			t.Errorf("slowly %q, %v", got, err)
		}
		k.failSend = os.ErrDeadlineExceeded
		if err := c.Do(unix.RTM_NEWRULE, 0, nil); !errors.Is(err, ErrSilent) {
			t.Errorf("when nothing can be sent: %v", err)
		}
	})
}

// Unrelated messages do not extend the time for which the kernel may be silent.
func TestNoiseIsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kernel{answer: func(_ int, request message) (list []datagram) {
			request.seq--
			for range 100 {
				list = append(list, datagram{wait: Silence / 4, bytes: reply(request, unix.RTM_NEWLINK, 0, "late")})
			}
			return list
		}}
		began := time.Now()
		if _, err := k.conn().Ask(unix.RTM_GETLINK, nil); !errors.Is(err, ErrSilent) || time.Since(began) > Silence {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// An error from the kernel is returned, and the socket stays usable.
func TestErrno(t *testing.T) {
	refused := binary.NativeEndian.AppendUint32(nil, ^uint32(unix.EPERM)+1)
	k := &kernel{answer: func(_ int, request message) []datagram {
		return []datagram{{bytes: reply(request, unix.NLMSG_ERROR, 0, string(refused))}}
	}}
	c := k.conn()
	_, listed := List(c, unix.RTM_GETLINK, nil, text)
	_, asked := c.Ask(unix.RTM_GETLINK, nil)
	for _, err := range []error{listed, asked, c.Do(unix.RTM_NEWRULE, 0, nil)} {
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("%v, want EPERM", err)
		}
	}
	// A dump may fail at its end.
	k.answer = func(_ int, request message) []datagram {
		list := parts(request, 0, "lo")
		list[1].bytes = reply(request, unix.NLMSG_DONE, unix.NLM_F_MULTI, string(refused))
		return list
	}
	if got, err := List(c, unix.RTM_GETLINK, nil, text); !errors.Is(err, unix.EPERM) || got != nil {
		t.Errorf("%q, %v, want EPERM", got, err)
	}
	if k.opened != 1 {
		t.Errorf("opened %d sockets", k.opened)
	}
}

// The rest of a dump that was ended early does not disturb the next request.
func TestEndedEarly(t *testing.T) {
	k := &kernel{answer: func(_ int, request message) []datagram { return parts(request, 0, "lo", "loopback0") }}
	c := k.conn()
	if err := c.Each(unix.RTM_GETLINK, nil, func([]byte) bool { return false }); err != nil {
		t.Error(err)
	}
	if _, err := List(c, unix.RTM_GETLINK, nil, func([]byte) (string, error) { return "", errors.New("nonsense") }); err == nil {
		t.Error("what cannot be decoded is no error")
	}
	if got, err := List(c, unix.RTM_GETLINK, nil, text); err != nil || len(got) != 2 || k.opened != 3 {
		t.Errorf("%q, %v, by socket %d", got, err, k.opened)
	}
}

// The real kernel: one answer, a dump and an error, all on the same socket.
func TestKernel(t *testing.T) {
	c, err := Open(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lo := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(lo[4:], 1)
	sock := c.sock
	msg, err := c.Ask(unix.RTM_GETLINK, lo)
	if err != nil || len(msg) < len(lo) {
		t.Fatalf("%x, %v", msg, err)
	}
	var name string
	if err := Attrs(msg[len(lo):], func(a *Attr) {
		if a.Kind == unix.IFLA_IFNAME {
			name = a.Text()
		}
	}); err != nil || name != "lo" {
		t.Errorf("%q, %v", name, err)
	}
	if msgs, err := c.Dump(unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg)); err != nil || len(msgs) == 0 {
		t.Errorf("%d links, %v", len(msgs), err)
	}
	binary.NativeEndian.PutUint32(lo[4:], 1<<30)
	if _, err := c.Ask(unix.RTM_GETLINK, lo); !errors.Is(err, unix.ENODEV) {
		t.Errorf("of a link that is not there: %v", err)
	}
	if c.sock != sock {
		t.Error("another socket was opened")
	}
	c.Close()
	c.Close()
	if _, err := c.Ask(unix.RTM_GETLINK, append(make([]byte, 4), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

// Messages of other processes do not arrive, although these may send to any port.
func TestForged(t *testing.T) {
	victim, err := openSocket(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	raw, err := victim.(*os.File).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var to unix.Sockaddr
	if controlled := raw.Control(func(fd uintptr) { to, err = unix.Getsockname(int(fd)) }); controlled != nil || err != nil {
		t.Fatal(controlled, err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	want := unix.ECONNREFUSED
	if os.Geteuid() != 0 {
		want = unix.EPERM
	}
	if err := unix.Sendto(fd, Message(unix.NLMSG_DONE, 0, nil), 0, to); !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
	}
}
