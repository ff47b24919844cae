package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/notify"
	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// A tap sits between the daemon and the kernel, where everything passes: at the system
// calls (seccomp_unotify(2)). The kernel stops the daemon at each call in tapped and asks
// the tap, which lets the call continue or makes it fail. So the tests run the released
// program, without hooks in it.
type tap struct {
	numbers              map[int]string // the names of all system calls
	pid, pidfd, listener int

	mu    sync.Mutex
	seen  []string // all calls, in order
	fault func(n int, call string) unix.Errno
	hit   []string // the calls that the tap has made fail, with their errors
	// absent are nftables expressions that the kernel must not know.
	absent []string

	holding sync.WaitGroup
}

// tapped are the calls with which the daemon talks to the kernel; strace -c lists them. The
// calls that the runtime needs to live (threads, memory, its own eventfd) are not among
// them. Nor is bind, which for a netlink socket fails only when the kernel has no memory
// left: vishvananda/netlink then closes the descriptor twice, the second time during
// garbage collection, when it may belong to something else (getNetlinkSocket and Subscribe
// in its nl/nl_linux.go).
var tapped = []string{
	"socket", "connect", "listen", "accept4", "getsockname", "getpeername", "getsockopt", "setsockopt",
	"sendto", "sendmsg", "recvfrom", "recvmsg",
	"timerfd_create", "timerfd_settime", "epoll_ctl", "read", "write", "ioctl",
	"openat", "newfstatat", "fstat", "mkdirat", "fchmodat", "renameat", "renameat2", "unlinkat",
}

// execs are the calls that start the tapped program.
var execs = []string{"execve", "execveat"}

// What can happen to a netlink message instead of a failing call.
const (
	// refused: the kernel reads the message and refuses it; it is sent with a type that
	// does not exist.
	refused = unix.Errno(4095)
	// swallowed: the kernel never sees the message, but the program believes that it was
	// sent. There will be no answer.
	swallowed = unix.Errno(4094)
	// held: the kernel handles the message only after the daemon has stopped waiting, as if
	// others had its lock.
	held = unix.Errno(4093)
)

// holdFor is longer than the daemon waits for anything.
const holdFor = 2300 * time.Millisecond

// onTap returns a command that runs plain on a tap. The tap starts with the command.
func onTap(t testing.TB, args ...string) (*exec.Cmd, *tap) {
	t.Helper()
	machine, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	program := *must(t, plain)
	filter := *program.Filter
	filter.Asked = slices.Concat(tapped, execs)
	program.Filter = &filter
	return program.Command(args...), &tap{numbers: machine.SyscallNumbers}
}

// serve answers until the program has ended. The program must have been started.
func (p *tap) serve(proc *lab.Process) error {
	p.pid = proc.Cmd.Process.Pid
	var err error
	if p.pidfd, err = unix.PidfdOpen(p.pid, 0); err != nil {
		return err
	}
	defer unix.Close(p.pidfd)
	if err := p.find(proc); err != nil {
		return err
	}
	defer unix.Close(p.listener)
	defer p.holding.Wait()
	for {
		fds := []unix.PollFd{{Fd: int32(p.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return err
		}
		if fds[0].Revents&unix.POLLIN != 0 {
			if err := p.answer(); err != nil {
				return err
			}
		} else if fds[0].Revents != 0 {
			return nil // no process is under the filter any more
		}
	}
}

// find takes the descriptor from the program while it waits in execve.
func (p *tap) find(proc *lab.Process) error {
	dir := fmt.Sprintf("/proc/%d/fd", p.pid)
	for deadline := time.Now().Add(labtest.Patience()); time.Now().Before(deadline); time.Sleep(100 * time.Microsecond) {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if to, _ := os.Readlink(filepath.Join(dir, e.Name())); to != "anon_inode:seccomp notify" {
				continue
			}
			var number int
			fmt.Sscan(e.Name(), &number)
			var err error
			p.listener, err = unix.PidfdGetfd(p.pidfd, number, 0)
			return err
		}
		select {
		case <-proc.Done():
			return fmt.Errorf("the program ended: %w", proc.Wait())
		default:
		}
	}
	return errors.New("the program has no tap")
}

// answer answers one call.
func (p *tap) answer() error {
	n, err := notify.Receive(p.listener)
	switch err {
	case nil:
	case unix.ENOENT, unix.EINTR: // it was interrupted, and comes again
		return nil
	default:
		return err
	}
	r, wait := notify.Answer{ID: n.ID, Flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}, time.Duration(0)
	if call := p.describe(&n); call != "" {
		p.mu.Lock()
		if strings.Contains(call, batch) {
			p.hide(&n)
		}
		p.seen = append(p.seen, call)
		if p.fault != nil {
			switch errno := p.fault(len(p.seen)-1, call); {
			case errno == refused:
				if p.spoil(&n) {
					p.hit = append(p.hit, call+" refused")
				}
			case errno == swallowed:
				if p.messageType(&n) != 0 {
					_, size := p.message(&n)
					r.Flags, r.Value = 0, int64(size)
					p.hit = append(p.hit, call+" swallowed")
				}
			case errno == held:
				wait = holdFor
				p.hit = append(p.hit, call+" held")
			case errno != 0:
				r.Flags, r.Errno = 0, -int32(errno)
				p.hit = append(p.hit, call+" "+unix.ErrnoName(errno))
			}
		}
		p.mu.Unlock()
	}
	if r.Errno != 0 {
		// A signal that arrives now must not undo the fault (sandbox/filter.go). Go's runtime
		// sends such signals when threads wait for a processor.
		_ = unix.Tgkill(p.pid, int(n.PID), unix.SIGURG)
	}
	if wait == 0 {
		return p.respond(r)
	}
	p.holding.Go(func() { // so that other threads can continue
		time.Sleep(wait)
		_ = p.respond(r)
	})
	return nil
}

func (p *tap) respond(a notify.Answer) error {
	if err := notify.Send(p.listener, a); err != nil && err != unix.ENOENT {
		return err
	}
	return nil
}

// describe describes a call, "" for those that must not fail.
func (p *tap) describe(n *notify.Call) string {
	name := p.name(n)
	switch name {
	case "execve", "execveat":
		return ""
	case "socket":
		return fmt.Sprintf("socket %d/%d", n.Args[0], n.Args[2])
	case "read", "write", "epoll_ctl", "ioctl":
		fd := n.Args[0]
		if name == "epoll_ctl" {
			fd = n.Args[2]
		}
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", p.pid, fd))
		kind, _, _ := strings.Cut(to, ":")
		if fd <= 2 || strings.HasSuffix(to, "[eventfd]") || strings.HasSuffix(to, "[eventpoll]") {
			return "" // the log, and the runtime's own calls
		}
		return name + " " + strings.TrimPrefix(kind, "/")
	case "getsockname":
		// For a unix socket, package net panics if this fails, and the kernel has no reason
		// to fail it (unix_getname in net/unix/af_unix.c).
		if p.domain(int(n.Args[0])) == unix.AF_UNIX {
			return ""
		}
	case "sendto", "sendmsg":
		kind := p.messageType(n)
		if first := p.firstOfBatch(n); first != 0 {
			return fmt.Sprintf("%s %s %#x", name, batch, first)
		}
		if kind != 0 {
			return fmt.Sprintf("%s %#x", name, kind)
		}
	}
	return name
}

// name returns the name of a system call. For a netlink socket, read and write are the same
// to the kernel as recvfrom and sendto, and have the same arguments.
func (p *tap) name(n *notify.Call) string {
	name := p.numbers[int(n.Number)]
	same := map[string]string{"read": "recvfrom", "write": "sendto"}[name]
	if same != "" && p.domain(int(n.Args[0])) == unix.AF_NETLINK {
		return same
	}
	return name
}

// domain returns the address family of one of the program's sockets.
func (p *tap) domain(fd int) int {
	fd, err := unix.PidfdGetfd(p.pidfd, fd, 0)
	if err != nil {
		return -1
	}
	defer unix.Close(fd)
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return -1
	}
	return domain
}

// message returns where the bytes are that a call sends.
func (p *tap) message(n *notify.Call) (at uintptr, size uint64) {
	if p.name(n) == "sendto" {
		return uintptr(n.Args[1]), n.Args[2]
	}
	var msg unix.Msghdr
	var iov unix.Iovec
	p.copy(uintptr(n.Args[1]), unsafe.Slice((*byte)(unsafe.Pointer(&msg)), unsafe.Sizeof(msg)), unix.ProcessVMReadv)
	p.copy(uintptr(unsafe.Pointer(msg.Iov)), unsafe.Slice((*byte)(unsafe.Pointer(&iov)), unsafe.Sizeof(iov)), unix.ProcessVMReadv)
	return uintptr(unsafe.Pointer(iov.Base)), iov.Len
}

// messageType returns the type of a netlink message.
func (p *tap) messageType(n *notify.Call) uint16 {
	at, size := p.message(n)
	b := make([]byte, unix.SizeofNlMsghdr)
	if size < uint64(len(b)) || !p.copy(at, b, unix.ProcessVMReadv) || binary.NativeEndian.Uint32(b) > uint32(size) {
		return 0
	}
	return binary.NativeEndian.Uint16(b[4:])
}

// batch is what the tap calls a message that changes the ruleset.
const batch = "batch"

// firstOfBatch returns the type of the message after the one that begins a batch, which
// tells what the batch is for; 0 if it is not a batch. RTM_NEWLINK has the same number as
// NFNL_MSG_BATCH_BEGIN, but is longer.
func (p *tap) firstOfBatch(n *notify.Call) uint16 {
	at, size := p.message(n)
	const least = unix.SizeofNlMsghdr + 4 // struct nfgenmsg; NFNL_BATCH_GENID may follow
	b := make([]byte, max(least, min(size, least+8+unix.SizeofNlMsghdr)))
	if size < least || !p.copy(at, b, unix.ProcessVMReadv) || binary.NativeEndian.Uint16(b[4:]) != unix.NFNL_MSG_BATCH_BEGIN {
		return 0
	}
	begin := binary.NativeEndian.Uint32(b)
	if begin < least || begin > least+8 || len(b) < int(begin)+unix.SizeofNlMsghdr {
		return 0
	}
	return binary.NativeEndian.Uint16(b[begin+4:])
}

// spoil gives a netlink message a type that the kernel refuses.
func (p *tap) spoil(n *notify.Call) bool {
	if name := p.name(n); name != "sendto" && name != "sendmsg" || p.messageType(n) == 0 {
		return false
	}
	at, _ := p.message(n)
	return p.copy(at+4, binary.NativeEndian.AppendUint16(nil, 0x7ff0), unix.ProcessVMWritev)
}

// hide renames the absent expressions in a change of the ruleset. The kernel then looks for
// a module that does not exist, and answers like a kernel that lacks the real ones.
func (p *tap) hide(n *notify.Call) {
	at, size := p.message(n)
	b := make([]byte, size)
	if len(p.absent) == 0 || !p.copy(at, b, unix.ProcessVMReadv) {
		return
	}
	for _, name := range p.absent {
		b = bytes.ReplaceAll(b, nlconn.AppendText(nil, unix.NFTA_EXPR_NAME, name),
			nlconn.AppendText(nil, unix.NFTA_EXPR_NAME, strings.Repeat("z", len(name))))
	}
	p.copy(at, b, unix.ProcessVMWritev)
}

// setAbsent sets the nftables expressions that the kernel must not know.
func (p *tap) setAbsent(expressions ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.absent = expressions
}

// copy copies between the program's memory and ours.
func (p *tap) copy(at uintptr, b []byte, by func(int, []unix.Iovec, []unix.RemoteIovec, uint) (int, error)) bool {
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	n, err := by(p.pid, local, []unix.RemoteIovec{{Base: at, Len: len(b)}}, 0)
	return err == nil && n == len(b)
}

// setFault makes the calls fail for which fault returns an error.
func (p *tap) setFault(fault func(n int, call string) unix.Errno) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

// calls returns what has been seen and hit so far.
func (p *tap) calls() (seen, hit []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.seen...), append([]string(nil), p.hit...)
}
