package mirror

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// beaconName is an abstract unix socket. Such names belong to the network namespace
// (unix(7)). The distributions of one WSL VM share it, though they share no files and no
// process IDs.
//
// The owner of the table listens there. The other daemons connect and wait for the
// connection to end, because the kernel sends no event when it removes a table whose owner
// has died. The owner reads nothing: a connection in the backlog is enough to notice its
// end.
//
// Any process may take the name, or connect, so nothing depends on it. Without it, a daemon
// on standby takes over later, at its next pass.
const beaconName = "@wslmirror"

// A beacon is the listener of the table's owner.
type beacon struct {
	listener *net.UnixListener
	watcher  net.Conn // one daemon on standby, once it was found
}

// lightBeacon starts to listen.
func lightBeacon() (*beacon, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: beaconName})
	if err != nil {
		return nil, err
	}
	return &beacon{listener: l}, nil
}

// watched reports whether a daemon on standby waits for the end of the beacon. Closed
// connections are still in the backlog. However many processes connect, it takes about
// a tenth of a second at most.
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

// isDaemon reports whether the other end may be a wslmirror: a process of root, or of the
// service's user, which systemd derives from its name in every distribution. Others cannot
// delay our end by connecting.
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

// waits reports whether the other end of a connection is still open. It never writes.
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
	// pause is how long after connecting gone is called at the earliest. It grows with each
	// connection that ends while the table keeps its owner: the beacon then belongs to
	// another process.
	pause time.Duration
}

// watchBeacon connects, and calls gone when either side has ended the connection.
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
	earliest := time.Now().Add(w.pause)
	go func() {
		conn.Read(make([]byte, 1))
		close(done)
		if early := time.Until(earliest); early > 0 {
			time.AfterFunc(early, gone)
		} else {
			gone()
		}
	}()
	return nil
}

// again connects again if the connection has ended, or if there was none.
func (w *beaconWatch) again(gone func()) error {
	if w.conn != nil {
		select {
		case <-w.done:
			w.conn.Close()
			w.conn = nil
			w.pause = min(max(2*w.pause, firstBackOff), resync)
		default:
			return nil
		}
	}
	return w.connect(gone)
}

func (w *beaconWatch) close() {
	if w.conn != nil {
		w.conn.Close()
	}
}
