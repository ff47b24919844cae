package nlconn

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A socket is a netlink socket, or the kernel of a test. Each Read reads one datagram,
// which contains one or more messages.
type socket interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// openSocket opens a socket in the network namespace of the calling thread.
//
// It connects the socket to the kernel. Other processes with CAP_NET_ADMIN, which may
// send to any netlink socket, then cannot send to this one (netlink_getsockbyportid in
// net/netlink/af_netlink.c). It does not call bind(2), which WSL intercepts and which
// takes 11 ms there: connect(2) also assigns a port.
//
// options are of the level SOL_NETLINK.
func openSocket(protocol int, options ...int) (socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, os.NewSyscallError("open netlink: socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("open netlink: connect", err)
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, o, 1); err != nil {
			unix.Close(fd)
			return nil, os.NewSyscallError("open netlink: setsockopt", err)
		}
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}
