package status

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The protocol of the socket: a client connects, the daemon reads the kernel again and
// publishes the result, and then it closes the connection. No data is ever sent. So
// ordinary users, who may not read the ruleset, see its current counters.

const (
	// maxAsking limits how many requests are handled at the same time.
	maxAsking = 16
	// askTimeout limits how long a request waits.
	askTimeout = 2 * time.Second
)

// ErrInUse says that another daemon publishes in the same directory.
var ErrInUse = errors.New("another wslmirror publishes in this directory")

// Serve creates the socket in dir and calls refresh for every client that connects, until
// ctx is done. refresh returns when a new snapshot has been written.
func Serve(ctx context.Context, dir string, refresh func(context.Context)) error {
	path := filepath.Join(dir, socketName)
	if Alive(dir) {
		return ErrInUse
	}
	// A killed daemon leaves its socket.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Connecting takes write permission on the socket (unix(7)). Chmod would follow a link
	// that another process of this user has put in its place.
	old := unix.Umask(0o111)
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	unix.Umask(old)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() }) // also removes the socket
	go accept(ctx, l, refresh)
	return nil
}

func accept(ctx context.Context, l net.Listener, refresh func(context.Context)) {
	asking := make(chan struct{}, maxAsking)
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors or memory. Clients time out.
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			continue
		}
		select {
		case asking <- struct{}{}: // others wait in the socket's backlog
		case <-ctx.Done():
			conn.Close()
			return
		}
		go func() {
			defer func() { conn.Close(); <-asking }()
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			refresh(ctx)
		}()
	}
}

// Alive reports whether a daemon publishes in dir.
func Alive(dir string) bool {
	conn, err := net.Dial("unix", filepath.Join(dir, socketName))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// ErrSilent says that a daemon is there but does not answer.
var ErrSilent = errors.New("the daemon does not answer")

// Refresh makes the daemon that publishes in dir publish again. The error is fs.ErrNotExist
// if no daemon runs, and ErrSilent if it hangs.
func Refresh(dir string) error {
	conn, err := net.DialTimeout("unix", filepath.Join(dir, socketName), askTimeout)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return fs.ErrNotExist
	}
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(askTimeout + time.Second))
	if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrSilent
	}
	return nil
}
