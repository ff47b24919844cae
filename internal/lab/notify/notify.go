// Package notify has the messages of seccomp's user notification (seccomp_unotify(2)):
// the kernel stops a program at a system call, and asks what should become of it.
package notify

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Call is a system call that waits for an answer (struct seccomp_notif).
type Call struct {
	ID         uint64
	PID, Flags uint32 // the thread's, as seen by the receiver
	Number     int32
	Arch       uint32
	IP         uint64
	Args       [6]uint64
}

// An Answer says what becomes of a Call (struct seccomp_notif_resp).
type Answer struct {
	ID    uint64
	Value int64
	Errno int32 // negative
	Flags uint32
}

// Receive waits for a call. The error is a unix.Errno: ENOENT if the thread was killed
// meanwhile.
func Receive(fd int) (c Call, err error) {
	return c, ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&c))
}

// Send answers a call. The error is a unix.Errno: ENOENT if nobody waits any more.
func Send(fd int, a Answer) error {
	return ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a))
}

func ioctl(fd int, request uintptr, at unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(at)); errno != 0 {
		return errno
	}
	return nil
}
