package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/wslmirror/wslmirror/internal/lab/tracker"
)

// Options of a bench. The zero value is a mirrored network as WSL leaves it
// after boot.
type Options struct {
	// Mode is the networking mode.
	Mode Mode
	// Ports is the size of the block of source ports that Windows reserved for
	// Linux, at most 4836. Zero means 300, what WSL had in 2023; since about
	// 2.5 it is 4096. In consomme there is none.
	Ports int
	// NoLoopback0 leaves loopback0 out until AddLoopback0 is called, as when
	// a service starts before Windows has plugged it in.
	NoLoopback0 bool
	// Tracker has Windows learn the ports of Linux as it does in a real WSL, from the
	// calls to bind(). Nil means that Windows knows each bound socket, which is faster.
	// Its Consomme is that of Mode. A bench with a tracker keeps its mode.
	Tracker *tracker.Options
}

const (
	firstPort    = 60700
	defaultPorts = 300
	// windowsPorts is Windows' own range of source ports. It must not meet the
	// block of Linux: both systems share one port space.
	windowsPorts = "49152\t60000"
)

// The addresses of the LAN. 192.0.2.0/24 is for documentation (RFC 5737).
var (
	wslAddr = netip.MustParsePrefix("192.0.2.2/24")
	lanAddr = netip.MustParsePrefix("192.0.2.1/24")
)

// A Bench is a WSL machine that shares localhost with its Windows, and a neighbour
// on the LAN. Its methods may be called by one goroutine at a time; the hosts'
// methods by any number.
type Bench struct {
	WSL, Windows, LAN *Host
	// FirstPort and LastPort are the source ports of WSL, both inclusive: the block,
	// or in consomme the kernel's.
	FirstPort, LastPort uint16
	// Tracker is there if the options name one.
	Tracker *tracker.Tracker

	mode  Mode
	ports int // the size of the block

	owner *owner
	hosts []*Host // in the order in which they were made
}

// New builds a bench. It needs root: CAP_SYS_ADMIN and CAP_NET_ADMIN.
func New(opts Options) (*Bench, error) {
	if opts.Ports == 0 {
		opts.Ports = defaultPorts
	}
	if opts.Ports < 1 || firstPort+opts.Ports-1 > 65535 {
		return nil, fmt.Errorf("a block of %d ports does not fit above port %d", opts.Ports, firstPort)
	}
	b := &Bench{mode: opts.Mode, ports: opts.Ports}
	if err := b.build(opts); err != nil {
		return nil, errors.Join(explain(fmt.Errorf("build bench: %w", err)), b.Close())
	}
	return b, nil
}

func (b *Bench) build(opts Options) error {
	var err error
	if b.WSL, err = b.addHost("WSL"); err != nil {
		return err
	}
	if b.Windows, err = b.addHost("Windows"); err != nil {
		return err
	}
	if b.LAN, err = b.addHost("LAN"); err != nil {
		return err
	}
	if err := errors.Join(route(b.Windows, windowsNIC), route(b.LAN, eth0)); err != nil {
		return err
	}
	if err := b.setPorts(); err != nil { // which the tracker must know
		return err
	}
	if b.owner, err = newOwner(b, opts.Tracker); err != nil {
		return err
	}
	b.WSL.beforeDial = func(string, string) error { return b.owner.look() }
	b.Windows.beforeDial = b.owner.toLinux

	if err := b.globalSysctls(); err != nil {
		return err
	}
	if err := b.connectLAN(); err != nil {
		return err
	}
	return b.boot(!opts.NoLoopback0)
}

// addHost makes a host that ends with the bench.
func (b *Bench) addHost(name string) (*Host, error) {
	h, err := newHost(name)
	if err != nil {
		return nil, err
	}
	b.hosts = append(b.hosts, h)
	return h, nil
}

// Close ends everything that runs on the bench and the bench itself. What is
// closed may be closed again.
func (b *Bench) Close() error {
	var errs []error
	if b.owner != nil {
		errs = append(errs, b.owner.close())
	}
	for _, h := range b.hosts {
		errs = append(errs, h.Close())
	}
	b.owner, b.hosts = nil, nil
	return errors.Join(errs...)
}
