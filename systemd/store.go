package systemd

import (
	"errors"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Store makes the service manager keep a copy of a descriptor under a name, for the next
// process of this service (FDSTORE in sd_notify(3)). The unit must set
// FileDescriptorStoreMax=.
func (n *Notifier) Store(name string, fd int) error {
	// FDPOLL=0: systemd must not close the descriptor when the other end of a connection is
	// closed.
	return sendWith("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, fd)
}

// Forget makes the service manager close the descriptor that it keeps under name.
func (n *Notifier) Forget(name string) error {
	_, err := n.send(false, "FDSTOREREMOVE=1\nFDNAME="+name)
	return err
}

// Stored returns the descriptors that the service manager has kept, by name. The caller
// owns them.
func Stored() map[string]int {
	kept := map[string]int{}
	for _, f := range activation.Files(true) {
		// An os.File would close its descriptor when it is garbage-collected.
		if fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			if earlier, twice := kept[f.Name()]; twice {
				unix.Close(earlier)
			}
			kept[f.Name()] = fd
		}
		f.Close()
	}
	return kept
}

// sendWith is send with a descriptor; the library has no function for that. The socket
// needs no address of its own, and binding one would take 11 ms in WSL.
func sendWith(state string, fd int) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	err = unix.Sendmsg(s, []byte(state), unix.UnixRights(fd), &unix.SockaddrUnix{Name: name}, 0)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return os.NewSyscallError("sendmsg", err)
}
