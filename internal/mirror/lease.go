package mirror

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft"
)

// A lease is the right to serve. There is one in a network namespace, and the owner of the
// table holds it: the kernel gives the table to one socket, and removes it when that socket
// is closed, however the process ends.
//
// The beacon exists beside the table because the kernel sends no event when it removes a
// table whose owner has died. The beacon decides nothing.
type lease struct {
	wake    func()
	serving func() []uint16 // see nft.TableOwner

	owner  *nft.TableOwner // nil until it is needed, and after it was closed
	lacks  nft.Features    // what the kernel did not support at the time asked
	asked  time.Time
	beacon *beacon      // nil while this daemon does not serve
	watch  *beaconWatch // watches the daemon that serves
}

// askAgain is how long to assume that the kernel still lacks a feature. Each check starts
// modprobe. It is also an event of the ruleset, so it must be rarer than passes.
const askAgain = 10 * time.Second

// open opens the socket that can own the table, and finds out what the kernel supports.
func (l *lease) open() (err error) {
	if l.owner != nil {
		l.lookAgain()
		return nil
	}
	if l.owner, err = nft.Open(); err != nil {
		return err
	}
	l.owner.Serving, l.asked = l.serving, time.Now()
	if l.lacks, err = l.owner.Lacking(); err != nil {
		err = errors.Join(err, l.close())
	}
	return err
}

// lookAgain checks whether a missing module has been loaded. It uses another socket,
// because a timeout closes the socket, and the table would disappear with the owner's.
func (l *lease) lookAgain() {
	if l.lacks == (nft.Features{}) || time.Since(l.asked) < askAgain {
		return
	}
	l.asked = time.Now()
	other, err := nft.Open()
	if err != nil {
		return // keep the last answer until the next pass
	}
	if lacks, err := other.Lacking(); err == nil {
		l.lacks = lacks
	}
	// Close waits until the kernel has finished removing.
	go other.Close()
}

// held reports whether a table is ours.
func (l *lease) held(t nft.OurTable) bool {
	return l.owner != nil && t.Present && t.Owner == l.owner.PortID()
}

// acquire installs the table in the kernel. After a timeout the result is unknown, so
// acquire closes the socket, which removes the table.
func (l *lease) acquire(t nft.Table, old nft.OurTable) error {
	err := l.owner.Install(t, old)
	for _, closed := range []error{nft.ErrTimeout, unix.EBADF, os.ErrClosed} {
		if errors.Is(err, closed) {
			err = errors.Join(err, l.close())
			break
		}
	}
	return err
}

// drop removes the table. The lease can be acquired again.
func (l *lease) drop() error {
	err := l.owner.Remove()
	if err != nil {
		err = errors.Join(err, l.close())
	}
	return err
}

// show tells the daemons on standby whether this one serves.
func (l *lease) show(serves bool) (err error) {
	switch {
	case serves && l.beacon == nil:
		l.beacon, err = lightBeacon()
	case !serves && l.beacon != nil:
		l.beacon.close()
		l.beacon = nil
	}
	return err
}

// follow wakes the loop when the daemon that owns the table ends; 0: stop following.
func (l *lease) follow(owner uint32) (err error) {
	switch {
	case l.watch != nil && l.watch.owner == owner:
		return l.watch.again(l.wake)
	case l.watch != nil:
		l.watch.close()
		l.watch = nil
	}
	if owner != 0 {
		l.watch, err = watchBeacon(owner, l.wake)
	}
	return err
}

// followed reports whether another daemon waits for the end of this one.
func (l *lease) followed() bool { return l.beacon != nil && l.beacon.watched() }

// close closes the socket; the kernel then removes the table.
func (l *lease) close() error {
	if l.owner == nil {
		return nil
	}
	err := l.owner.Close()
	l.owner = nil
	return err
}

// release gives up the lease: first the table, then the beacon, so that a daemon that sees
// the beacon end finds no table.
func (l *lease) release() error {
	err := l.close()
	return errors.Join(err, l.show(false), l.follow(0))
}
