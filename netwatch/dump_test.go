package netwatch

import (
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A dumper is a kernel whose dumps are interrupted so often. Such a dump lacks the
// last link.
type dumper struct {
	interrupted int
	names       []string

	asked   int
	request netlink.Message
}

func (d *dumper) Send(m netlink.Message) error {
	d.request = m
	d.asked++
	return nil
}

func (d *dumper) Receive() (msgs []netlink.Message, err error) {
	header := netlink.Header{Type: unix.RTM_NEWLINK, Flags: netlink.Multi, Sequence: d.request.Header.Sequence, PID: d.request.Header.PID}
	names := d.names
	if d.asked <= d.interrupted {
		header.Flags |= netlink.DumpInterrupted
		names = names[:len(names)-1]
	}
	for _, name := range names {
		attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.IFLA_IFNAME, Data: append([]byte(name), 0)}})
		if err != nil {
			return nil, err
		}
		msgs = append(msgs, netlink.Message{Header: header, Data: append(make([]byte, unix.SizeofIfInfomsg), attrs...)})
	}
	header.Type = netlink.Done
	return append(msgs, netlink.Message{Header: header, Data: make([]byte, 4)}), nil
}

func (*dumper) Close() error                           { return nil }
func (*dumper) SendMessages(m []netlink.Message) error { panic("not one message") }
func (*dumper) SetDeadline(time.Time) error            { return nil }
func (d *dumper) SetReadDeadline(t time.Time) error    { return d.SetDeadline(t) }
func (d *dumper) SetWriteDeadline(t time.Time) error   { return d.SetDeadline(t) }

// A link that was there all the time is not missed because others came and went,
// and a machine whose links never rest is no reason to ask for ever.
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
		kernel := &dumper{interrupted: interrupted, names: []string{"lo", "loopback0"}}
		links, err := (&LinkReader{netlink.NewConn(kernel, 1)}).Read()
		if err != nil {
			t.Errorf("interrupted %d times: %v", interrupted, err)
		}
		var names []string
		for _, l := range links {
			names = append(names, l.Name)
		}
		if !slices.Equal(names, want.names) || kernel.asked != want.asked {
			t.Errorf("interrupted %d times: %q, asked %d times; want %q, %d", interrupted, names, kernel.asked, want.names, want.asked)
		}
	}
}
