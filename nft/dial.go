package nft

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

// How long the kernel may take for an answer, or for a change of the ruleset, which
// takes milliseconds. For the first question of all, and to install the table, it may
// have to load modules.
const (
	answerTimeout  = 2 * time.Second
	installTimeout = 10 * time.Second
)

// ErrTimeout says that the kernel did not answer in time. Whether it has made the
// change is not known. The socket is closed, so a table that it owned is gone.
var ErrTimeout = errors.New("the kernel did not answer in time")

// A timeoutError is ErrTimeout after so long.
type timeoutError time.Duration

func (e timeoutError) Error() string {
	return fmt.Sprintf("the kernel did not answer within %v", time.Duration(e))
}

func (timeoutError) Is(target error) bool { return target == ErrTimeout }

// dial opens a connection that is kept, in the network namespace of the calling
// thread, and shows the socket of it.
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

// enlarge lets a transaction be as long as tens of thousands of ports take. The
// library does so by itself, but not with the option by which it shows its socket.
func enlarge(sock *netlink.Conn) error {
	const size = 4 << 20 // bytes
	if err := errors.Join(sock.SetWriteBuffer(size), sock.SetReadBuffer(size)); err != nil {
		return fmt.Errorf("set the buffers of netlink: %w", err)
	}
	return nil
}

// within does something with a connection, and closes its socket if that takes too
// long. A deadline would not do: for as long as there is something to be read, the
// library goes on after each error (receiveSeq in its conn.go), for ever after that
// of a deadline that has passed.
func within(sock *netlink.Conn, limit time.Duration, do func() error) error {
	t := time.AfterFunc(limit, func() { sock.Close() })
	err := do()
	if !t.Stop() {
		// The socket is closed, whatever has come of it: an error is of one kind or
		// another, and a change that was made is undone where the socket owns the table.
		return timeoutError(limit)
	}
	return err
}

// closed is the error of closing what within may have closed.
func closed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
