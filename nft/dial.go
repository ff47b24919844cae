package nft

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

// How long the kernel may take to answer or to change the ruleset. Both normally take
// milliseconds. For the first request, and before the table is installed, the kernel may
// have to load modules.
const (
	answerTimeout  = 2 * time.Second
	installTimeout = 10 * time.Second
)

// ErrTimeout says that the kernel did not answer in time. The change may have been made
// or not. The socket is closed, so a table that it owned is gone.
var ErrTimeout = errors.New("the kernel did not answer in time")

// A timeoutError is ErrTimeout with the time limit.
type timeoutError time.Duration

func (e timeoutError) Error() string {
	return fmt.Sprintf("the kernel did not answer within %v", time.Duration(e))
}

func (timeoutError) Is(target error) bool { return target == ErrTimeout }

// dial opens a lasting connection in the network namespace of the calling thread. It
// also returns the connection's socket.
func dial(opts ...nftables.ConnOption) (conn *nftables.Conn, sock *netlink.Conn, err error) {
	conn, err = nftables.New(append(opts, nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		sock = c
		return nil
	}))...)
	if err != nil {
		return nil, nil, fmt.Errorf("open netlink: %w", err)
	}
	return conn, sock, nil
}

// enlarge makes the buffers large enough for a transaction with tens of thousands of
// ports. The library does so itself, but not with the option that exposes the socket.
func enlarge(sock *netlink.Conn) error {
	const size = 4 << 20 // bytes
	if err := errors.Join(sock.SetWriteBuffer(size), sock.SetReadBuffer(size)); err != nil {
		return fmt.Errorf("set the buffers of netlink: %w", err)
	}
	return nil
}

// within runs do and closes the socket if that takes longer than limit. A read deadline
// does not work: receiveSeq in the library's conn.go reads on after each error while
// there is data, and would loop forever after an expired deadline.
func within(sock *netlink.Conn, limit time.Duration, do func() error) error {
	t := time.AfterFunc(limit, func() { sock.Close() })
	err := do()
	if !t.Stop() {
		// The socket is closed. So ignore err, whatever it is: it may be of any kind,
		// and if the change was made, it is undone where the socket owns the table.
		return timeoutError(limit)
	}
	return err
}

// closed ignores the error of closing a socket that within has already closed.
func closed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
