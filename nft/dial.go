package nft

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

// answerTimeout bounds one reading of the ruleset, and one change of it. Both take
// milliseconds; a kernel that needs longer is asked again later.
const answerTimeout = 2 * time.Second

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
func within(sock *netlink.Conn, do func() error) error {
	t := time.AfterFunc(answerTimeout, func() { sock.Close() })
	defer t.Stop()
	return do()
}

// closed is the error of closing what within may have closed.
func closed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
