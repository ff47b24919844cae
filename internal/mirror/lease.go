package mirror

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft"
)

// A lease is the right to serve, of which there is one in a network. Whoever owns
// the table has it: the kernel gives the table to one socket, and takes it back when
// that socket is closed, however the process ends.
//
// Beside the table there is a beacon, because the kernel sends no event when it
// removes a table whose owner has died. It decides nothing.
type lease struct {
	wake    func()
	serving func() []uint16 // see nft.TableOwner

	owner  *nft.TableOwner // nil until it is needed, and when it was closed
	lacks  nft.Features    // what the kernel does not take, as it was at the time asked
	asked  time.Time
	beacon *beacon      // nil while we do not serve
	watch  *beaconWatch // of the daemon that serves
}

// askAgain is how long what the kernel lacks is taken to be lacking still. To ask costs
// a start of modprobe.
const askAgain = time.Second

// open opens the socket that can own the table, and finds out what the kernel can.
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

// lookAgain finds out whether a module has come that was lacking. It uses another socket,
// because a timeout closes it, and with the owner's the table would go.
func (l *lease) lookAgain() {
	if l.lacks == (nft.Features{}) || time.Since(l.asked) < askAgain {
		return
	}
	l.asked = time.Now()
	other, err := nft.Open()
	if err != nil {
		return // it lacks what it lacked, until the next look
	}
	if lacks, err := other.Lacking(); err == nil {
		l.lacks = lacks
	}
	// Closing waits for the end of what the kernel has removed.
	go other.Close()
}

// held reports whether a table is ours.
func (l *lease) held(t nft.OurTable) bool {
	return l.owner != nil && t.Present && t.Owner == l.owner.PortID()
}

// acquire makes the kernel hold the table. After a timeout nobody knows whether it
// does; the socket is closed then, and the table is gone with it.
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

// show lets the daemons that stand by see whether we serve.
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

// follow has the loop woken when the daemon that owns the table ends; 0 for no
// longer.
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

// close closes the socket, with which the kernel removes the table.
func (l *lease) close() error {
	if l.owner == nil {
		return nil
	}
	err := l.owner.Close()
	l.owner = nil
	return err
}

// release gives the lease up: the table, and then the beacon, so that whoever sees
// the beacon end finds the table gone.
func (l *lease) release() error {
	err := l.close()
	return errors.Join(err, l.show(false), l.follow(0))
}
