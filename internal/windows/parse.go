// Package windows asks Windows about its ports and WSL about its network, by
// programs: netsh.exe and netstat.exe, which WSL's interop runs, and wslinfo.
// It only reads, and opens no connection, but for what callers of Run and Command run.
// The daemon must not use it.
package windows

import (
	"bytes"
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strconv"
)

// What these programs print is in Windows' language and in the code page of its
// console (CP437, CP932, CP949…), and neither is known here. So nothing is read
// but decimal numbers, addresses, and an asterisk. Their bytes are those of
// ASCII in all of these code pages, and none is the second byte of another
// character.

// A Range is a range of ports, both ends inclusive.
type Range struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
	// Administered is an exclusion that an administrator has added: it only
	// keeps Windows from choosing these ports by itself, and any program may bind
	// them. The others are reservations of a program (Hyper-V, WinNAT), and
	// nobody else may bind those (CreatePersistentTcpPortReservation).
	Administered bool `json:"administered"`
}

// Contains reports whether port lies in r.
func (r Range) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// A Listener is a socket of a Windows program that waits for clients.
type Listener struct {
	Addr netip.AddrPort
	PID  uint32
}

// errNonsense says that nothing could be made of what a program printed.
var errNonsense = errors.New("it printed something unexpected")

// ParseExcluded reads what "netsh int ipv4 show excludedportrange" prints: lines
// of a first port, a last port, and "*" if it is administered. Lines that are
// something else are passed over; it is an error if there is neither a range
// nor the table's rule of dashes.
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

// ParseDynamic reads what "netsh int ipv4 show dynamicportrange" prints: two
// lines that end in a number, the first port and how many there are.
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

// ParseListeners reads what "netstat -ano" prints for TCP or UDP: lines of the
// protocol, the own address, the foreign one, for TCP the state in words, and the
// process. What waits for clients has no foreign port. Other lines are passed
// over; it is an error if no line is of a socket.
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

// decimal is the number that b is, if it is nothing else and at most most.
func decimal(b []byte, most uint64) (uint64, bool) {
	if len(b) > 10 { // not even a long one that begins with zeros
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
