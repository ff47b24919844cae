package tracker

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab/notify"
)

// Enter puts the calling thread under the trap, with the programs that it starts from
// then on. It cannot be undone, so the thread must be locked and must end with its
// goroutine: the runtime starts no other threads from such a one.
func (t *Tracker) Enter() error {
	calls := []string{"bind"}
	if t.opts.Version.has(trapsListen) {
		calls = append(calls, "listen")
	}
	fd, err := installTrap(calls)
	if err != nil {
		return fmt.Errorf("trap bind(): %w", err)
	}
	// The runtime waits for it without a thread.
	if err := unix.SetNonblock(fd, true); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	trap := os.NewFile(uintptr(fd), "seccomp notify")
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dead {
		return trap.Close()
	}
	t.traps[trap] = struct{}{}
	t.serving.Go(func() { t.serve(trap) })
	return nil
}

// installTrap installs the filter and returns the descriptor by which to answer. The
// library installs filters as well, but forgets the descriptor.
func installTrap(calls []string) (fd int, err error) {
	policy := seccomp.Policy{
		DefaultAction: seccomp.ActionAllow,
		Syscalls:      []seccomp.SyscallGroup{{Names: calls, Action: seccomp.ActionUserNotify}},
	}
	instructions, err := policy.Assemble()
	if err != nil {
		return -1, err
	}
	var filter []unix.SockFilter
	for _, instruction := range instructions {
		raw, err := instruction.Assemble()
		if err != nil {
			return -1, err
		}
		filter = append(filter, unix.SockFilter{Code: raw.Op, Jt: raw.Jt, Jf: raw.Jf, K: raw.K})
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// The second flag is WSL's as well: a signal does not make the call begin anew, for
	// example that by which Go's runtime interrupts its threads.
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// serve answers until nobody is under the trap any more, or the tracker is dead.
func (t *Tracker) serve(trap *os.File) {
	conn, err := trap.SyscallConn()
	if err == nil {
		_ = conn.Read(func(fd uintptr) (done bool) { return t.answerAll(int(fd)) })
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.traps, trap)
	_ = trap.Close()
}

// answerAll answers the calls that wait, and reports whether there will be no others.
func (t *Tracker) answerAll(fd int) (done bool) {
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		switch n, err := unix.Poll(fds, 0); {
		case err == unix.EINTR:
			continue
		case err != nil:
			return true
		case n == 0:
			return false
		case fds[0].Revents&unix.POLLIN == 0:
			return true
		}
		n, err := notify.Receive(fd)
		if err != nil {
			continue // the thread was killed meanwhile
		}
		if !t.answer(fd, &n) {
			return true
		}
	}
}
