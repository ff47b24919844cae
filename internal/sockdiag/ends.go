package sockdiag

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Ends tells when a socket ends that held a port: one that listened, was only bound, or
// is of UDP. The kernel tells this to any user. It has no such event for a socket that
// begins to hold a port.
type Ends struct{ file *os.File }

// The groups of NETLINK_SOCK_DIAG (enum sknetlink_groups in the kernel's
// uapi/linux/sock_diag.h): TCP and UDP, of IPv4 and of IPv6.
const (
	firstGroup = 1
	lastGroup  = 4
)

// WatchEnds begins to listen, in the network namespace of the calling thread. From then
// on each socket that ends costs the kernel a message, so it is for who has to know.
func WatchEnds() (*Ends, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, os.NewSyscallError("watch sockets: socket", err)
	}
	// connect(2) gives it an address, without which it hears nothing, and is not bind(2),
	// for which WSL would take 11 ms.
	err = unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(noPeer)), Filter: &noPeer[0]})
	}
	for group := firstGroup; err == nil && group <= lastGroup; group++ {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group)
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("watch sockets", err)
	}
	return &Ends{os.NewFile(uintptr(fd), "sock_diag")}, nil
}

// noPeer passes what has a port, and none at the other end (idiag_sport and idiag_dport in
// struct inet_diag_msg, behind the header), so that a busy server wakes nobody.
var noPeer = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: unix.SizeofNlMsghdr + 4},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 3, Jf: 0},
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: unix.SizeofNlMsghdr + 6},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 0, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// Next waits for the end of a socket, or of many. The error is that Close was called.
func (e *Ends) Next() error {
	_, err := e.file.Read(make([]byte, 1)) // the rest of the message is dropped
	if errors.Is(err, unix.ENOBUFS) {
		return nil // the kernel could not tell of all: something has ended
	}
	return err
}

// Close ends Next.
func (e *Ends) Close() error { return e.file.Close() }
