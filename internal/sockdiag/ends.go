package sockdiag

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Ends reports when a socket that held a port ends: one that listened, was only bound,
// or is a UDP socket. The kernel reports this to any user. It has no event for a socket
// that starts to hold a port.
type Ends struct{ file *os.File }

// The multicast groups of NETLINK_SOCK_DIAG (enum sknetlink_groups in the kernel's
// uapi/linux/sock_diag.h): TCP and UDP, each for IPv4 and IPv6.
const (
	firstGroup = 1
	lastGroup  = 4
)

// WatchEnds starts to listen, in the network namespace of the calling thread. From then
// on, each socket that ends costs the kernel a message, so use it only where needed.
func WatchEnds() (*Ends, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, os.NewSyscallError("watch sockets: socket", err)
	}
	// connect(2) gives the socket an address, without which it receives nothing.
	// bind(2) would take 11 ms in WSL.
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

// noPeer accepts messages about sockets with a port and without a peer's port
// (idiag_sport and idiag_dport in struct inet_diag_msg, after the header). So a busy
// server wakes nobody.
var noPeer = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: unix.SizeofNlMsghdr + 4},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 3, Jf: 0},
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: unix.SizeofNlMsghdr + 6},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 0, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// Next waits until one or more sockets have ended. It returns an error after Close.
func (e *Ends) Next() error {
	_, err := e.file.Read(make([]byte, 1)) // the rest of the message is dropped
	if errors.Is(err, unix.ENOBUFS) {
		return nil // messages were lost: something has ended
	}
	return err
}

// Close makes Next return.
func (e *Ends) Close() error { return e.file.Close() }
