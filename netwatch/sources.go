package netwatch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Netlink is a Source for events of netlink multicast groups, for example RTNLGRP_LINK
// of NETLINK_ROUTE. Group numbers go up to 32.
func Netlink(name string, protocol int, groups ...uint) Source {
	return Source{Name: name, Open: func() (Subscription, error) {
		sock, err := nl.Subscribe(protocol, groups...)
		if err != nil {
			return nil, err
		}
		return netlinkEvents{sock}, nil
	}}
}

type netlinkEvents struct{ sock *nl.NetlinkSocket }

// overrunRest is the pause after lost events.
const overrunRest = 10 * time.Millisecond

func (e netlinkEvents) Wait() error {
	_, _, err := e.sock.Receive()
	if errors.Is(err, unix.ENOBUFS) {
		// Events were lost because too many came at once. The socket stays usable
		// (netlink(7)), and a lost event means "look again" like any other. The flood
		// may go on, so do not hurry.
		time.Sleep(overrunRest)
		return nil
	}
	return err
}

func (e netlinkEvents) Close() error {
	e.sock.Close()
	return nil
}

// ClockSet is a Source for the event that the wall clock was set. That also happens
// when the system resumes: while Windows sleeps, the VM sleeps too, and timers that
// count awake time do not notice.
func ClockSet() Source {
	return Source{Name: "the clock", Open: func() (Subscription, error) {
		fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
		if err != nil {
			return nil, fmt.Errorf("timerfd_create: %w", err)
		}
		// The timer itself never fires. It is armed because only an armed timer is
		// cancelled when the clock jumps (timerfd_create(2)).
		never := unix.ItimerSpec{Value: unix.Timespec{Sec: 1 << 33}} // the year 2242
		err = unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil)
		if err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("timerfd_settime: %w", err)
		}
		return clockEvents{os.NewFile(uintptr(fd), "timerfd")}, nil
	}}
}

// clockEvents are the reads of a timer. They are behind an interface so that tests need
// not set the machine's clock.
type clockEvents struct{ io.ReadCloser }

func (c clockEvents) Wait() error {
	_, err := c.Read(make([]byte, 8))
	if errors.Is(err, unix.ECANCELED) {
		return nil // the clock was set; the timer stays armed
	}
	return err
}
