// Package windows asks Windows about its ports and WSL about its network. It runs
// programs: netsh.exe and netstat.exe through WSL's interop, and wslinfo. It only reads
// and opens no connection, except for what callers of Run and Command run. The daemon
// must not use it.
package windows

import (
	"bytes"
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strconv"
)

// These programs print in Windows' language and in the code page of its console (CP437,
// CP932, CP949…), and neither is known here. So only decimal numbers, addresses and
// asterisks are read. In all these code pages their bytes are those of ASCII, and none
// is the second byte of another character.

// A Range is an inclusive range of ports.
type Range struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
	// Administered marks an exclusion that an administrator has added. It only keeps
	// Windows from choosing these ports itself, and any program may bind them. The
	// other ranges are reservations of a program (Hyper-V, WinNAT), and nobody else may
	// bind those (CreatePersistentTcpPortReservation).
	Administered bool `json:"administered"`
}

// Contains reports whether port lies in r.
func (r Range) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// A Listener is a socket of a Windows program that waits for clients.
type Listener struct {
	Addr netip.AddrPort
	PID  uint32
}

// errNonsense says that a program's output could not be understood.
var errNonsense = errors.New("it printed something unexpected")

// ParseExcluded parses the output of "netsh int ipv4 show excludedportrange": lines
// with a first port, a last port, and "*" if the range is administered. Other lines are
// skipped. It is an error if the output contains neither a range nor the table's line
// of dashes.
func ParseExcluded(out []byte) ([]Range, error) {
	var ranges []Range
	var table bool
	for line := range bytes.Lines(out) {
		f := bytes.Fields(line)
		if len(f) == 2 && dashes(f[0]) && dashes(f[1]) {
			table = true
		}
		starred := len(f) == 3 && string(f[2]) == "*"
		if len(f) != 2 && !starred {
			continue
		}
		first, ok1 := decimal(f[0], 65535)
		last, ok2 := decimal(f[1], 65535)
		if ok1 && ok2 && first <= last {
			ranges = append(ranges, Range{uint16(first), uint16(last), starred})
		}
	}
	if ranges == nil && !table {
		return nil, errNonsense
	}
	slices.SortFunc(ranges, func(a, b Range) int {
		if c := cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last)); c != 0 || a.Administered == b.Administered {
			return c
		}
		if b.Administered {
			return -1
		}
		return 1
	})
	return slices.Compact(ranges), nil
}

// ParseDynamic parses the output of "netsh int ipv4 show dynamicportrange": two lines
// that end in a number, the first port and the number of ports.
func ParseDynamic(out []byte) (Range, error) {
	var numbers []uint64
	for line := range bytes.Lines(out) {
		f := bytes.Fields(line)
		if len(f) < 2 || len(numbers) > 2 {
			continue
		}
		if n, ok := decimal(f[len(f)-1], 65536); ok {
			numbers = append(numbers, n)
		}
	}
	if len(numbers) != 2 || numbers[0] == 0 || numbers[1] == 0 || numbers[0]+numbers[1] > 65536 {
		return Range{}, errNonsense
	}
	return Range{First: uint16(numbers[0]), Last: uint16(numbers[0] + numbers[1] - 1)}, nil
}

// ParseListeners parses the output of "netstat -ano" for TCP or UDP: lines with the
// protocol, the local address, the foreign address, for TCP the state in words, and the
// process ID. A socket that waits for clients has no foreign port. Other lines are
// skipped. It is an error if no line describes a socket.
func ParseListeners(out []byte) ([]Listener, error) {
	var listeners []Listener
	var sockets bool
	for line := range bytes.Lines(out) {
		f := bytes.Fields(line)
		if len(f) < 4 || string(f[0]) != "TCP" && string(f[0]) != "UDP" {
			continue
		}
		addr, err := netip.ParseAddrPort(string(f[1]))
		pid, ok := decimal(f[len(f)-1], 1<<32-1)
		if err != nil || !ok {
			continue
		}
		sockets = true
		switch string(f[2]) {
		case "0.0.0.0:0", "[::]:0", "*:*": // UDP has no foreign address
			listeners = append(listeners, Listener{netip.AddrPortFrom(addr.Addr().WithZone(""), addr.Port()), uint32(pid)})
		}
	}
	if !sockets {
		return nil, errNonsense
	}
	slices.SortFunc(listeners, func(a, b Listener) int {
		return cmp.Or(cmp.Compare(a.Addr.Port(), b.Addr.Port()), a.Addr.Compare(b.Addr), cmp.Compare(a.PID, b.PID))
	})
	return slices.Compact(listeners), nil
}

func dashes(b []byte) bool { return len(bytes.Trim(b, "-")) == 0 }

// decimal returns the value of b if b consists of digits only and is not larger than
// most.
func decimal(b []byte, most uint64) (uint64, bool) {
	if len(b) > 10 { // even if it begins with zeros
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(string(b), 10, 64)
	return n, err == nil && n <= most
}
