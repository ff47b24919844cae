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

// The protocol of the socket: to connect is to ask the daemon to look at the
// kernel again and to publish what it sees; when it has, it hangs up. Nothing
// is ever sent. An ordinary user may not read the ruleset, and by this sees its
// counters as they are now.

const (
	// maxAsking bounds how many are served at the same time.
	maxAsking = 16
	// askTimeout bounds how long one waits.
	askTimeout = 2 * time.Second
)

// ErrInUse says that another daemon publishes in the same directory.
var ErrInUse = errors.New("another wslmirror publishes in this directory")

// Serve makes the socket in dir and calls refresh for everybody who connects,
// until ctx is done. refresh returns when a new snapshot has been written.
func Serve(ctx context.Context, dir string, refresh func(context.Context)) error {
	path := filepath.Join(dir, socketName)
	if Alive(dir) {
		return ErrInUse
	}
	// What is left is of a daemon that was killed.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return err
	}
	// To connect takes write permission on the socket (unix(7)).
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
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
			// Out of descriptors or memory. Whoever connects sees a timeout.
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			continue
		}
		select {
		case asking <- struct{}{}: // the others wait in the socket's backlog
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

// ErrSilent says that there is a daemon but that it does not answer.
var ErrSilent = errors.New("the daemon does not answer")

// Refresh has the daemon that publishes in dir publish anew. The error is
// fs.ErrNotExist where no daemon is running and ErrSilent where one is hanging.
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
