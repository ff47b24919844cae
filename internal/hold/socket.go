package hold

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

var (
	localhost4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	localhost6 = netip.IPv6Loopback()
	// peer is an address that WSL never announces to Windows (GnsPortTracker.cpp).
	peer = netip.AddrFrom4([4]byte{127, 0, 0, 2})
)

// patience is the timeout of a connection within this machine, in milliseconds.
const patience = 500

// open makes a socket that holds p and leaves the port free for other programs: it never
// listens and receives no packet from a client.
//
// A TCP socket must be connected, because WSL lists the sockets, and kernels before 6.8
// list a socket that does not listen only if it is connected. On [::1] it is connected to
// itself. On 127.0.0.1 such a connection would go to Windows or, by the engine's rule, to
// the container. So it is connected to a listener that closes at once, and stays in
// CLOSE_WAIT.
//
// [::1] comes first, because a program can then still bind the port for IPv4. v4 demands
// IPv4: in consomme mode only that works, and where another socket refuses [::1].
func open(p Port, v4 bool) (int, error) {
	if v4 {
		return open4(p)
	}
	fd, err := OpenIPv6(p)
	switch {
	case err == nil, errors.Is(err, unix.EADDRINUSE), errors.Is(err, unix.EACCES), errors.Is(err, errElsewhere):
		return fd, err
	}
	// There is no IPv6, or an engine redirects [::1] too.
	return open4(p)
}

// OpenIPv6 opens the socket that holds p on [::1]: it is connected to itself.
func OpenIPv6(p Port) (int, error) {
	at := netip.AddrPortFrom(localhost6, p.Number)
	return makeSocket(p.Proto, at, func(fd int) error {
		err := connect(fd, at)
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			err = errElsewhere
		}
		return err
	})
}

// errElsewhere says that a socket there is already connected to itself.
var errElsewhere = errors.New("another wslmirror in this VM holds it")

func open4(p Port) (int, error) {
	at := netip.AddrPortFrom(localhost4, p.Number)
	return makeSocket(p.Proto, at, func(fd int) error {
		if p.Proto == "udp" {
			return connect(fd, at)
		}
		return meet(fd)
	})
}

// makeSocket makes a socket that is bound to an address.
func makeSocket(proto string, at netip.AddrPort, then func(fd int) error) (int, error) {
	fd, err := socket(proto, at.Addr())
	if err != nil {
		return -1, err
	}
	if err = bind(fd, at); err == nil {
		err = then(fd)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func socket(proto string, addr netip.Addr) (int, error) {
	family, kind, protocol := unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP // never MPTCP: WSL does not see it
	if addr.Is4() {
		family = unix.AF_INET
	}
	if proto == "udp" {
		kind, protocol = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil && family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil && proto == "tcp" {
		// Closing must leave nothing in TIME_WAIT, which would keep the port.
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	if err == nil && proto == "tcp" && family == unix.AF_INET {
		// WSL sends packets for 127.0.0.1 to Windows, unless the socket is bound to lo.
		err = unix.BindToDevice(fd, "lo")
	}
	if err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("setsockopt", err)
	}
	return fd, nil
}

// errRefused is the result of a bind() that Windows refuses in consomme mode: it returns a
// value that is not a Linux error, and does nothing (WSL's ConsommeNetworking.cpp).
var errRefused = errors.New("refused by Windows")

func bind(fd int, at netip.AddrPort) error {
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if at.Port() != 0 && local(fd) != at {
		return errRefused
	}
	return nil
}

// local returns the address to which a socket is bound.
func local(fd int) netip.AddrPort {
	sa, _ := unix.Getsockname(fd)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// connect connects the socket, and returns when it is connected.
func connect(fd int, to netip.AddrPort) error {
	err := unix.Connect(fd, sockaddr(to))
	if !errors.Is(err, unix.EINPROGRESS) {
		return os.NewSyscallError("connect", err)
	}
	if err := await(fd, unix.POLLOUT); err != nil {
		return fmt.Errorf("connect to %s: %w", to, err)
	}
	soErr, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && soErr != 0 {
		err = unix.Errno(soErr)
	}
	return os.NewSyscallError("connect", err)
}

func await(fd int, events int16) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, patience)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n == 0:
			return os.ErrDeadlineExceeded
		}
		return err
	}
}

// meet connects fd to a listener that closes at once.
func meet(fd int) error {
	at := netip.AddrPortFrom(peer, 0)
	listener, err := socket("tcp", at.Addr())
	if err != nil {
		return err
	}
	defer unix.Close(listener)
	if err := bind(listener, at); err != nil {
		return err
	}
	if err := unix.Listen(listener, 1); err != nil {
		return os.NewSyscallError("listen", err)
	}
	if err := connect(fd, local(listener)); err != nil {
		return err
	}
	if err := await(listener, unix.POLLIN); err != nil {
		return err
	}
	other, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("accept", err)
	}
	// Close with a FIN: a reset would close fd too.
	err = unix.SetsockoptLinger(other, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
	return errors.Join(err, unix.Close(other))
}

// holds reports whether fd still holds p, on an address that is suitable.
func holds(fd int, p Port, v4 bool) bool {
	at := local(fd)
	if at.Port() != p.Number || v4 && !at.Addr().Is4() {
		return false
	}
	// A privileged user can close any socket ("ss --kill").
	_, err := unix.Getpeername(fd)
	return err == nil
}

// mayBind reports whether this process may bind a port. If we asked and the kernel then
// refused, Windows would keep the port reserved for a minute.
func mayBind(port uint16) bool {
	const firstUser = 1024 // net.ipv4.ip_unprivileged_port_start, which the service cannot read
	if port >= firstUser {
		return true
	}
	var data [2]unix.CapUserData
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0])
	return err == nil && data[0].Effective&(1<<unix.CAP_NET_BIND_SERVICE) != 0
}
