package field

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/sockdiag"
)

// A finder finds ports that nobody has. They are below the blocks of source ports, which
// Windows sends to Linux whether somebody has bound them or not.
type finder struct {
	linux *lab.Host
	next  uint16
}

const firstPort, lastPort = 18080, 19079

// quiet finds a port that no socket of Linux has. It binds nothing: WSL's port tracker
// would keep the port for Linux for up to a minute.
func (f *finder) quiet() (uint16, error) {
	sockets, err := sockdiag.Sockets()
	if err != nil && !errors.Is(err, sockdiag.ErrNoUDP) {
		return 0, err
	}
	for f.next = max(f.next, firstPort); f.next <= lastPort; f.next++ {
		if !slices.ContainsFunc(sockets, func(s sockdiag.Socket) bool { return s.Local.Port() == f.next }) {
			f.next++
			return f.next - 1, nil
		}
	}
	return 0, fmt.Errorf("no port is free from %d to %d", firstPort, lastPort)
}

// bindable finds a port that Windows, too, lets Linux have.
func (f *finder) bindable() (uint16, error) {
	for {
		port, err := f.quiet()
		if err != nil || f.linux.Do(func() error { return isFree(port) }) == nil {
			return port, err
		}
	}
}

func isFree(port uint16) error {
	addr := netip.AddrPortFrom(netip.IPv4Unspecified(), port).String()
	c := net.ListenConfig{}
	c.SetMultipathTCP(false) // Windows is not asked about MPTCP
	l, err := c.Listen(context.Background(), "tcp4", addr)
	if err != nil {
		return err
	}
	u, err := net.ListenPacket("udp4", addr)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	return errors.Join(u.Close(), l.Close())
}

// await waits until a server of ours answers in Linux. Windows has heard of its port then.
func await(ctx context.Context, linux *lab.Host, proto string, to netip.AddrPort) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if _, err := linux.Ask(proto, to.String(), patience/4); err == nil || errors.Is(err, syscall.EHOSTUNREACH) {
			return
		}
	}
}
