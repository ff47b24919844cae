package nlconn

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A socket is a netlink socket, or a test's kernel.
type socket interface {
	send(msg []byte, deadline time.Time) error
	// receive reads one datagram, which holds one or more messages. from is the
	// port that sent it, 0 for the kernel's.
	receive(b []byte, deadline time.Time) (n int, from uint32, err error)
	Close() error
}

// A kernelSocket waits in Go's poller, so that a goroutine that waits takes no
// thread.
type kernelSocket struct {
	*os.File
	raw syscall.RawConn
}

// openSocket opens a socket in the network namespace of the calling thread, and
// returns the port that the kernel chose for it.
func openSocket(protocol int) (s socket, port uint32, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, 0, fmt.Errorf("open netlink: %w", err)
	}
	file := os.NewFile(uintptr(fd), "netlink")
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, 0, fmt.Errorf("bind netlink: %w", err)
	}
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return nil, 0, fmt.Errorf("get the address of netlink: %w", err)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, 0, fmt.Errorf("open netlink: %w", err)
	}
	return kernelSocket{file, raw}, addr.(*unix.SockaddrNetlink).Pid, nil
}

func (s kernelSocket) send(msg []byte, deadline time.Time) error {
	if err := s.SetWriteDeadline(deadline); err != nil {
		return err
	}
	var err error
	waited := s.raw.Write(func(fd uintptr) (done bool) {
		for err = unix.EINTR; err == unix.EINTR; {
			err = unix.Sendto(int(fd), msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		}
		return err != unix.EAGAIN
	})
	if waited != nil {
		return waited
	}
	return os.NewSyscallError("sendto", err)
}

func (s kernelSocket) receive(b []byte, deadline time.Time) (n int, from uint32, err error) {
	if err := s.SetReadDeadline(deadline); err != nil {
		return 0, 0, err
	}
	var addr unix.Sockaddr
	waited := s.raw.Read(func(fd uintptr) (done bool) {
		for err = unix.EINTR; err == unix.EINTR; {
			// With MSG_TRUNC the kernel returns the whole length of the datagram.
			n, addr, err = unix.Recvfrom(int(fd), b, unix.MSG_TRUNC)
		}
		return err != unix.EAGAIN
	})
	switch {
	case waited != nil:
		return 0, 0, waited
	case err != nil:
		return 0, 0, os.NewSyscallError("recvfrom", err)
	case n > len(b):
		return 0, 0, fmt.Errorf("netlink sent %d bytes, and %d are read at once", n, len(b))
	}
	a, ok := addr.(*unix.SockaddrNetlink)
	if !ok {
		return 0, 0, errors.New("netlink sent no address")
	}
	return n, a.Pid, nil
}
