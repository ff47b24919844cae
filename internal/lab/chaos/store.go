package chaos

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A store keeps descriptors for a service from one process to the next, as systemd does
// (FDSTORE in sd_notify(3)).
type store struct {
	path string
	conn *net.UnixConn
	raw  syscall.RawConn

	mu   sync.Mutex
	kept []stored
}

type stored struct {
	name string
	fd   int
}

func newStore(path string) (*store, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = os.Chmod(path, 0o777)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	s := &store{path: path, conn: conn, raw: raw}
	go func() {
		_ = raw.Read(func(fd uintptr) (done bool) { s.receive(int(fd)); return false })
	}()
	return s, nil
}

// receive does what the messages say that have arrived.
func (s *store) receive(fd int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	for {
		n, m, _, _, err := unix.Recvmsg(fd, text, rights, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err != nil {
			return
		}
		message := strings.Split(string(text[:n]), "\n")
		i := slices.IndexFunc(message, func(line string) bool { return strings.HasPrefix(line, "FDNAME=") })
		if i < 0 {
			continue
		}
		name := strings.TrimPrefix(message[i], "FDNAME=")
		if slices.Contains(message, "FDSTOREREMOVE=1") {
			s.remove(name)
			continue
		}
		messages, _ := unix.ParseSocketControlMessage(rights[:m])
		for _, message := range messages {
			fds, _ := unix.ParseUnixRights(&message)
			for _, fd := range fds {
				s.kept = append(s.kept, stored{name, fd})
			}
		}
	}
}

// remove closes what has a name, or all that is kept.
func (s *store) remove(name string) {
	s.kept = slices.DeleteFunc(s.kept, func(k stored) bool {
		if name != "" && k.name != name {
			return false
		}
		unix.Close(k.fd)
		return true
	})
}

// files are copies of what is kept, with their names, for a process that is started. The
// last one has ended, so all that it has sent has arrived.
func (s *store) files() (files []*os.File, names []string) {
	_ = s.raw.Control(func(fd uintptr) { s.receive(int(fd)) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kept {
		if fd, err := unix.FcntlInt(uintptr(k.fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			files, names = append(files, os.NewFile(uintptr(fd), k.name)), append(names, k.name)
		}
	}
	return files, names
}

// inodes are those of the sockets that are kept.
func (s *store) inodes() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kept {
		var st unix.Stat_t
		_ = unix.Fstat(k.fd, &st)
		list = append(list, fmt.Sprint(st.Ino))
	}
	return list
}

func (s *store) close() {
	_ = s.conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove("")
}
