package tracker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab/notify"
)

// A request is what a call means for Windows.
type request struct {
	Call
	proto  uint8 // zero if Windows is not asked
	late   bool  // whether the kernel has yet to choose the port
	socket int   // a copy of the program's, or -1
}

// answer answers a call, unless the tracker is dead.
func (t *Tracker) answer(fd int, n *notify.Call) (alive bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dead {
		return false
	}
	r := t.read(n)
	defer unix.Close(r.socket)
	if r.proto != 0 && !r.late {
		r.Result = t.ledger.request(Binding{r.proto, r.Addr}, t.now())
	}
	t.calls = append(t.calls, r.Call)
	a := notify.Answer{ID: n.ID, Errno: -r.Result}
	if r.Result == 0 {
		a.Flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	}
	_ = notify.Send(fd, a) // it fails if the thread was killed
	if r.proto != 0 && r.late {
		t.findPort(r)
	}
	if len(t.ledger.until) > 0 {
		time.Sleep(t.opts.Pause)
	}
	return true
}

// findPort asks Windows for the port that the kernel has chosen. The program has it
// already, so it keeps it even if Windows refuses.
func (t *Tracker) findPort(r request) {
	for range 25 { // as WSL does
		if addr := sockName(r.socket); addr.Port() != 0 {
			t.ledger.request(Binding{r.proto, addr}, t.now())
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// read says what a call is about. What cannot be read goes on, and the kernel judges it.
func (t *Tracker) read(n *notify.Call) request {
	pid := process(n.PID)
	r := request{Call: Call{Name: "bind", PID: pid}, socket: duplicate(pid, int(n.Args[0]))}
	r.Socket = protocol(r.socket)
	if n.Number == unix.SYS_LISTEN {
		r.Name, r.Addr = "listen", sockName(r.socket)
	} else {
		r.Addr = sockAddr(int(n.PID), uintptr(n.Args[1]), n.Args[2])
		if !r.Addr.IsValid() {
			return r
		}
	}
	// A thread may be in another namespace than its process.
	if netns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", n.PID)); err != nil || netns != t.netns {
		return r
	}
	switch r.Socket {
	case "TCP", "TCPv6":
		r.proto = unix.IPPROTO_TCP
	case "UDP", "UDPv6":
		r.proto = unix.IPPROTO_UDP
	default:
		return r
	}
	if r.late = r.Addr.Port() == 0; r.late && !t.opts.Version.has(trapsListen) {
		// Then it opens only the first thread of a process, and not at all before 2.7.1.
		if !t.opts.Version.has(findsPortZero) || int(n.PID) != pid {
			r.proto = 0
		}
	}
	return r
}

// process is the process of a thread, zero if that has gone.
func process(thread uint32) (pid int) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", thread))
	if _, after, ok := strings.Cut(string(status), "\nTgid:"); ok {
		fmt.Sscan(after, &pid)
	}
	return pid
}

// duplicate is a descriptor of another process, or -1.
func duplicate(pid, fd int) int {
	p, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1
	}
	defer unix.Close(p)
	own, err := unix.PidfdGetfd(p, fd, 0)
	if err != nil {
		return -1
	}
	return own
}

// protocol is the kernel's name for the protocol of a socket, "" if it is none.
func protocol(socket int) string {
	b := make([]byte, 64)
	n, err := unix.Fgetxattr(socket, "system.sockprotoname", b)
	if err != nil {
		return ""
	}
	name := string(bytes.TrimRight(b[:n], "\x00"))
	if name == "NETLINK" {
		if number, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PROTOCOL); err == nil {
			name = fmt.Sprintf("%s %d", name, number)
		}
	}
	return name
}

// sockName is what a socket is bound to, the zero value if it is not of the Internet.
func sockName(socket int) netip.AddrPort {
	name, _ := unix.Getsockname(socket)
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(name.Addr), uint16(name.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(name.Addr), uint16(name.Port))
	}
	return netip.AddrPort{}
}

// sockAddr reads an address from the memory of a process, the zero value if it is not of
// the Internet.
func sockAddr(pid int, at uintptr, size uint64) netip.AddrPort {
	b := make([]byte, min(size, unix.SizeofSockaddrInet6))
	if len(b) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}
	}
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	if n, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: at, Len: len(b)}}, 0); err != nil || n != len(b) {
		return netip.AddrPort{}
	}
	var addr netip.Addr
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET:
		addr = netip.AddrFrom4([4]byte(b[4:]))
	case family == unix.AF_INET6 && len(b) == unix.SizeofSockaddrInet6:
		addr = netip.AddrFrom16([16]byte(b[8:]))
	default:
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[2:]))
}
