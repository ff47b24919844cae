package mirror

import (
	"errors"
	"net"
	"os"
	"time"
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
// It decides nothing. If nobody listens there, the others look again and again, at
// most every 30 s; if it is somebody else, they find out by the resync.
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
// gone are still in the backlog.
func (b *beacon) watched() bool {
	for b.watcher == nil {
		soon := time.Now().Add(10 * time.Millisecond)
		if err := b.listener.SetDeadline(soon); err != nil {
			return false
		}
		conn, err := b.listener.Accept()
		if err != nil {
			return false
		}
		if waits(conn) {
			b.watcher = conn
		} else {
			conn.Close()
		}
	}
	return true
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

// A beaconWatch is a connection to somebody else's beacon.
type beaconWatch struct {
	conn net.Conn
	done chan struct{}
}

// watchBeacon connects, and calls gone when the connection has ended, by
// whichever side.
func watchBeacon(gone func()) (*beaconWatch, error) {
	conn, err := net.Dial("unix", beaconName)
	if err != nil {
		return nil, err
	}
	w := &beaconWatch{conn: conn, done: make(chan struct{})}
	go func() {
		conn.Read(make([]byte, 1))
		close(w.done)
		gone()
	}()
	return w, nil
}

// over reports whether the connection has ended.
func (w *beaconWatch) over() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func (w *beaconWatch) close() { w.conn.Close() }
