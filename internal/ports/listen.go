package ports

import (
	"bytes"
	"cmp"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/wslmirror/wslmirror/internal/hold"
	"github.com/wslmirror/wslmirror/internal/sockdiag"
)

// A Listener is a Linux socket that waits for clients or holds a port.
type Listener struct {
	Proto string // tcp or udp
	Addr  netip.AddrPort
	// OnlyV6 says that it accepts no IPv4.
	OnlyV6 bool
	// Bound says that it holds the port without listening; ss does not show it.
	Bound bool
	// Holder says that wslmirror holds the port for Windows with this socket. It waits
	// for no clients.
	Holder bool
	// MPTCP says that Windows never learns about it: WSL's port tracker does not
	// support MPTCP.
	MPTCP bool
	// Program is the name of the program, and PID its process ID. Both are zero if
	// /proc does not show it: it belongs to another user or another distribution.
	Program string
	PID     int
}

// TakesIPv4 reports whether it prevents others from using its port for IPv4.
func (l Listener) TakesIPv4() bool {
	return l.Addr.Addr().Is4() || l.Addr.Addr().IsUnspecified() && !l.OnlyV6
}

// Announces reports whether l tells Windows about a port that an engine publishes on an
// address, and accepts the connections to it. A socket that is only bound, as with
// Podman 6, is visible here exactly when WSL sees it too, since Linux 6.8 (WSL#41204).
func (l Listener) Announces(proto string, port uint16, on string) bool {
	if l.Proto != proto || l.Addr.Port() != port {
		return false
	}
	if l.Holder {
		return true
	}
	if !l.TakesIPv4() || l.MPTCP {
		return false
	}
	addr := l.Addr.Addr()
	return addr.IsUnspecified() || addr == localhost || addr.String() == on
}

var localhost = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// HoldsIPv6 reports whether l does not take IPv4, but prevents programs from listening on
// [::] for both families, as most do by default. A socket that takes IPv4 prevents that
// anyway.
func (l Listener) HoldsIPv6() bool { return !l.TakesIPv4() }

// Listeners returns the sockets that wait for clients, sorted by port. It may return
// sockdiag.ErrNoUDP together with the TCP sockets.
func Listeners() ([]Listener, error) {
	sockets, err := sockdiag.Sockets()
	if err != nil && !errors.Is(err, sockdiag.ErrNoUDP) {
		return nil, err
	}
	return listeners(sockets, programs("/proc")), err
}

// listeners returns the listeners among sockets, with their programs.
func listeners(sockets []sockdiag.Socket, programs map[uint32]process) []Listener {
	var list []Listener
	for _, s := range sockets {
		holder := hold.IsHolder(s)
		switch {
		case s.Local.Port() == 0:
			continue
		case holder:
		case s.Proto == "tcp" && (s.State == sockdiag.Listening || s.State == sockdiag.Closed):
		case s.Proto == "udp" && s.State == sockdiag.Closed: // not connected
		default:
			continue
		}
		p := programs[s.Inode]
		list = append(list, Listener{
			Proto: s.Proto, Addr: s.Local, OnlyV6: s.OnlyV6, MPTCP: s.MPTCP, Bound: s.Proto == "tcp" && s.State == sockdiag.Closed, Holder: holder,
			Program: p.name, PID: p.pid,
		})
	}
	slices.SortFunc(list, func(a, b Listener) int {
		return cmp.Or(
			cmp.Compare(a.Addr.Port(), b.Addr.Port()), cmp.Compare(a.Proto, b.Proto),
			a.Addr.Compare(b.Addr), cmp.Compare(a.PID, b.PID))
	})
	return slices.Compact(list) // with SO_REUSEPORT one program may have several
}

// A process is a running program.
type process struct {
	pid  int
	name string
}

// programs returns the processes by the inodes of their sockets, as far as this user
// may see them. If several share a socket, it returns the one with the lowest PID,
// mostly the parent.
func programs(proc string) map[uint32]process {
	dirs, _ := os.ReadDir(proc) // without /proc there are no names
	found := map[uint32]process{}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(proc, d.Name())
		fds, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue // belongs to another user, or has ended
		}
		var name string
		for _, fd := range fds {
			link, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
			if err != nil {
				continue
			}
			number, ok := strings.CutPrefix(link, "socket:[")
			if !ok {
				continue
			}
			inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
			if err != nil {
				continue
			}
			if p, ok := found[uint32(inode)]; ok && p.pid <= pid {
				continue
			}
			if name == "" {
				comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
				name = string(bytes.TrimSpace(comm))
			}
			found[uint32(inode)] = process{pid, name}
		}
	}
	return found
}
