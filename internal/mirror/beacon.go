package mirror

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// beaconName is an abstract unix socket. Such names belong to the network
// namespace (unix(7)), which the distributions of one WSL VM share, though they
// share no files and no process IDs.
//
// Whoever owns the table listens there, and the others connect and wait for the
// connection to end. They need it because the kernel sends no event when it
// removes a table whose owner has died. It reads nothing: to hang in the backlog
// is enough to notice the end.
//
// Anybody may take the name, or connect, so nothing depends on it. Without it a
// daemon that stands by takes over later, at the next look.
const beaconName = "@wslmirror"

// A beacon is what the owner of the table shows.
type beacon struct {
	listener *net.UnixListener
	watcher  net.Conn // one of those who wait, once it was found
}

// lightBeacon listens.
func lightBeacon() (*beacon, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: beaconName})
	if err != nil {
		return nil, err
	}
	return &beacon{listener: l}, nil
}

// watched reports whether anybody waits for the end of the beacon. Those who have
// gone are still in the backlog. However many connect meanwhile, it does not take
// longer than a moment.
func (b *beacon) watched() bool {
	for began := time.Now(); b.watcher == nil && time.Since(began) < 100*time.Millisecond; {
		soon := time.Now().Add(10 * time.Millisecond)
		if err := b.listener.SetDeadline(soon); err != nil {
			return false
		}
		conn, err := b.listener.Accept()
		if err != nil {
			return false
		}
		if isDaemon(conn) && waits(conn) {
			b.watcher = conn
		} else {
			conn.Close()
		}
	}
	return b.watcher != nil
}

// isDaemon reports whether the other end may be a wslmirror: root's, or of the user
// that the service has, which systemd derives from its name in every distribution.
// Others may not delay our end by connecting.
func isDaemon(conn net.Conn) bool {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	if controlErr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); controlErr != nil || err != nil {
		return false
	}
	return peer.Uid == 0 || int(peer.Uid) == os.Geteuid()
}

// waits reports whether the other end of a connection is open. It never writes.
func waits(conn net.Conn) bool {
	if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return false
	}
	_, err := conn.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

func (b *beacon) close() {
	b.listener.Close()
	if b.watcher != nil {
		b.watcher.Close()
	}
}

// A beaconWatch is a connection to the beacon of the daemon that owns the table.
type beaconWatch struct {
	owner uint32 // of the table
	conn  net.Conn
	done  chan struct{}
	// pause is how long the end of the connection is kept back. It grows while
	// connections end and the table has the same owner: then the beacon is somebody
	// else's.
	pause time.Duration
}

// watchBeacon connects, and calls gone when the connection has ended, by
// whichever side.
func watchBeacon(owner uint32, gone func()) (*beaconWatch, error) {
	w := &beaconWatch{owner: owner}
	return w, w.connect(gone)
}

func (w *beaconWatch) connect(gone func()) error {
	conn, err := net.Dial("unix", beaconName)
	if err != nil {
		return err
	}
	done := make(chan struct{})
	w.conn, w.done = conn, done
	pause := w.pause
	go func() {
		conn.Read(make([]byte, 1))
		close(done)
		if pause == 0 {
			gone()
		} else {
			time.AfterFunc(pause, gone)
		}
	}()
	return nil
}

// again connects once more if the connection has ended, and there was none.
func (w *beaconWatch) again(gone func()) error {
	if w.conn != nil {
		select {
		case <-w.done:
			w.conn.Close()
			w.conn = nil
		default:
			return nil
		}
	}
	w.pause = min(max(2*w.pause, firstBackOff), resync)
	return w.connect(gone)
}

func (w *beaconWatch) close() {
	if w.conn != nil {
		w.conn.Close()
	}
}
