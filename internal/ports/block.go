package ports

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/sockdiag"
	"github.com/wslmirror/wslmirror/internal/status"
)

// A Range is an inclusive range of ports.
type Range = status.PortRange

func between(first, last uint16) Range { return Range{First: first, Last: last} }

// A Block is the range from which Linux chooses the source ports of its own
// connections. In mirrored mode WSL has reserved it in Windows.
type Block struct {
	Range
	// Reserved are ports in the range that the kernel never chooses
	// (net.ipv4.ip_local_reserved_ports).
	Reserved []Range
	// Usable is the number of connections to one destination that the block allows.
	// FirstPass is how many of them the first pass of the kernel's search finds, among
	// the ports with the parity of the low end. The second pass takes longer.
	Usable, FirstPass int
	// UsableUDP is the number of UDP sockets that the block allows, for all
	// destinations together.
	UsableUDP int
	// TCP and UDP are the numbers of ports in use. They include ports in TIME_WAIT that
	// the kernel does not reuse.
	TCP, UDP int
	// Containers says that these numbers include the flows of containers, which only a
	// process with CAP_NET_ADMIN can see. Unseen is why they do not.
	Containers bool
	Unseen     error
	// Worst is the destination that uses the most ports.
	Worst Load
	// Windows is the range reserved in Windows, according to WSL's masquerade rule;
	// zero if unknown.
	Windows Range
}

// A Load is how much of the block one destination uses.
type Load struct {
	Proto string
	// Destination is not valid for UDP: a UDP socket uses its port for all
	// destinations.
	Destination netip.AddrPort
	Used, Of    int
}

// NearlyFull is the share at which warnings start.
const NearlyFull = 0.8

// Share returns the used part of the block, from 0 to 1.
func (l Load) Share() float64 {
	if l.Of == 0 {
		return 0
	}
	return float64(l.Used) / float64(l.Of)
}

// Widened reports whether the block extends beyond the range reserved in Windows. All
// of Linux's own connections to localhost then hang (WSL#41227).
func (b Block) Widened() bool {
	if b.Windows == (Range{}) {
		return false
	}
	for port := int(b.First); port <= int(b.Last); port++ {
		if !b.Windows.Contains(uint16(port)) && !b.IsReserved(uint16(port)) {
			return true
		}
	}
	return false
}

// MostReserved is the largest block that any known version of WSL reserves: 4096 ports
// now, and for a time one more (WSL#12228).
const MostReserved = 4097

// OfWSL returns the range that WSL has reserved in Windows for Linux. If that is
// unknown, it returns the block, unless somebody has changed it. Zero means unknown.
func (b Block) OfWSL() Range {
	switch {
	case b.Windows != (Range{}):
		return b.Windows
	case b.Size() > MostReserved || len(b.Reserved) > 0:
		return Range{}
	}
	return b.Range
}

// IsReserved reports whether the kernel never chooses port.
func (b Block) IsReserved(port uint16) bool {
	return slices.ContainsFunc(b.Reserved, func(r Range) bool { return r.Contains(port) })
}

// FirstPassLeft returns how many more connections to the worst destination the first
// pass finds.
func (b Block) FirstPassLeft() int { return max(0, b.FirstPass-b.Worst.Used) }

// ReadBlock reads the block and how much of it is in use. windows is the range reserved
// in Windows, zero if unknown.
func ReadBlock(windows Range) (Block, error) {
	sockets, err := sockdiag.Sockets()
	if err != nil && !errors.Is(err, sockdiag.ErrNoUDP) {
		return Block{}, err
	}
	r, reserved, err := readRange()
	if err != nil {
		return Block{}, err
	}
	// The rest is useful without the flows: the kernel may not have
	// nf_conntrack_netlink.
	flows, err := Flows()
	b := measure(r, reserved, readReuse(), sockets, flows)
	b.Containers, b.Unseen, b.Windows = err == nil, unseen(err), windows
	return b, nil
}

// unseen explains why the flows are not known, for people.
func unseen(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return errors.New("only root can see them")
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EPROTONOSUPPORT):
		return errors.New("this kernel does not list them (nf_conntrack_netlink)")
	}
	return err
}

// readReuse reads whether ports in TIME_WAIT are reused.
func readReuse() reuse {
	number := func(name string) int {
		b, _ := os.ReadFile("/proc/sys/net/ipv4/" + name)
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return n
	}
	if number("tcp_timestamps") == 0 {
		return never // the kernel tells old packets from new ones by their timestamps
	}
	return reuse(number("tcp_tw_reuse"))
}

// readRange reads the range and the reserved ports in it.
func readRange() (Range, []Range, error) {
	const dir = "/proc/sys/net/ipv4/"
	b, err := os.ReadFile(dir + "ip_local_port_range")
	if err != nil {
		return Range{}, nil, err
	}
	r, err := parseRange(strings.Fields(string(b)))
	if err != nil {
		return Range{}, nil, fmt.Errorf("ip_local_port_range: %w", err)
	}
	if b, err = os.ReadFile(dir + "ip_local_reserved_ports"); errors.Is(err, fs.ErrNotExist) {
		return r, nil, nil
	} else if err != nil {
		return Range{}, nil, err
	}
	all, err := parseReserved(string(b))
	if err != nil {
		return Range{}, nil, fmt.Errorf("ip_local_reserved_ports: %w", err)
	}
	var reserved []Range
	for _, a := range all {
		if a.Last >= r.First && a.First <= r.Last {
			reserved = append(reserved, between(max(a.First, r.First), min(a.Last, r.Last)))
		}
	}
	return r, reserved, nil
}

// parseReserved parses a list such as "8080,9000-9010".
func parseReserved(s string) (list []Range, err error) {
	for item := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		if item == "" {
			continue
		}
		ends := strings.Split(item, "-")
		if len(ends) == 1 {
			ends = append(ends, ends[0])
		}
		r, err := parseRange(ends)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

func parseRange(ends []string) (Range, error) {
	if len(ends) != 2 {
		return Range{}, fmt.Errorf("%q is no range of ports", ends)
	}
	first, err := strconv.ParseUint(ends[0], 10, 16)
	if err != nil {
		return Range{}, err
	}
	last, err := strconv.ParseUint(ends[1], 10, 16)
	if err == nil && first > last {
		err = fmt.Errorf("%q is no range of ports", ends)
	}
	return between(uint16(first), uint16(last)), err
}
