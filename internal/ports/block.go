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

// A Range is a range of ports, both ends inclusive.
type Range = status.PortRange

func between(first, last uint16) Range { return Range{First: first, Last: last} }

// A Block is the range from which Linux takes the source ports of its own
// connections. In mirrored mode WSL has reserved it in Windows.
type Block struct {
	Range
	// Reserved are the ports in it that are never chosen
	// (net.ipv4.ip_local_reserved_ports).
	Reserved []Range
	// Usable is how many connections to one destination the block is good for;
	// FirstPass how many of them are found in the first pass of the search, over
	// the ports of the low end's parity. The second pass takes longer.
	Usable, FirstPass int
	// UsableUDP is how many sockets of UDP it is good for, to all destinations.
	UsableUDP int
	// TCP and UDP are how many of its ports are in use, those in TIME_WAIT included
	// that the kernel does not give again.
	TCP, UDP int
	// Containers says that the flows of containers are among them: only who has
	// CAP_NET_ADMIN sees these. Unseen is why they are not.
	Containers bool
	Unseen     error
	// Worst is the destination that has taken the most.
	Worst Load
	// Windows is the range that is reserved in Windows, as WSL's own masquerade
	// rule has it, and zero if that is unknown.
	Windows Range
}

// A Load is how much of the block has been taken to one destination.
type Load struct {
	Proto string
	// Destination is not valid for UDP, whose sockets take a port for all
	// destinations.
	Destination netip.AddrPort
	Used, Of    int
}

// NearlyFull is the share from which on there is a warning.
const NearlyFull = 0.8

// Share is the part of the block that is taken, from 0 to 1.
func (l Load) Share() float64 {
	if l.Of == 0 {
		return 0
	}
	return float64(l.Used) / float64(l.Of)
}

// Widened reports whether the block reaches beyond what is reserved in Windows:
// then all of Linux's own connections to localhost hang (WSL#41227).
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

// MostReserved is the largest block that a version of WSL is known to reserve:
// 4096 ports by now, and in between one more (WSL#12228).
const MostReserved = 4097

// OfWSL is what WSL has reserved in Windows for Linux: what is known of it, or
// else the block, unless somebody has changed that. Zero: unknown.
func (b Block) OfWSL() Range {
	switch {
	case b.Windows != (Range{}):
		return b.Windows
	case b.Size() > MostReserved || len(b.Reserved) > 0:
		return Range{}
	}
	return b.Range
}

// IsReserved reports whether port is never chosen.
func (b Block) IsReserved(port uint16) bool {
	return slices.ContainsFunc(b.Reserved, func(r Range) bool { return r.Contains(port) })
}

// FirstPassLeft is how many connections to the worst destination are found in
// the first pass, from now on.
func (b Block) FirstPassLeft() int { return max(0, b.FirstPass-b.Worst.Used) }

// ReadBlock reads the block and what of it is in use. windows is the range that
// is reserved in Windows, zero if that is unknown.
func ReadBlock(windows Range) (Block, error) {
	sockets, err := sockdiag.Sockets()
	if err != nil && !errors.Is(err, sockdiag.ErrNoUDP) {
		return Block{}, err
	}
	r, reserved, err := readRange()
	if err != nil {
		return Block{}, err
	}
	// Without the flows, the rest is still worth knowing: a kernel may have no
	// nf_conntrack_netlink.
	flows, err := Flows()
	b := measure(r, reserved, readReuse(), sockets, flows)
	b.Containers, b.Unseen, b.Windows = err == nil, unseen(err), windows
	return b, nil
}

// unseen says for people why the flows are not known.
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

// readReuse reads what becomes of connections in TIME_WAIT.
func readReuse() reuse {
	number := func(name string) int {
		b, _ := os.ReadFile("/proc/sys/net/ipv4/" + name)
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return n
	}
	if number("tcp_timestamps") == 0 {
		return never // it tells the new connection's packets from the old one's by them
	}
	return reuse(number("tcp_tw_reuse"))
}

// readRange reads the range and the ports in it that are reserved.
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

// parseReserved reads a list as "8080,9000-9010".
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
