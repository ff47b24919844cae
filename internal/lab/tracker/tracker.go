// Package tracker models WSL's port tracker: the part of WSL that tells Windows which
// ports Linux has (GnsPortTracker.cpp and SecCompDispatcher.cpp in src/linux/init of
// microsoft/WSL), and the part of Windows that answers
// (WslCoreGuestNetworkService.cpp, ConsommeNetworking.cpp).
//
// As in WSL, the kernel stops a program at each bind() and listen() and asks the tracker
// (seccomp_unotify(2)). The tracker asks Windows, and the call goes on or fails. From
// time to time the tracker lists the sockets that the kernel shows and gives back the
// ports that are gone. docs/port-tracker.md has a test for each of its rules.
//
// Only threads that call [Tracker.Enter], and the programs that they start, are trapped.
package tracker

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options of a tracker. The zero value is the newest WSL in mirrored mode, on a kernel
// that shows all bound sockets, with a tracker that costs nothing.
type Options struct {
	Version Version
	// Consomme is that networking mode: Windows listens on each address by itself, so
	// the tracker compares whole addresses.
	Consomme bool
	// OldKernel hides TCP sockets that are bound and neither listen nor are connected,
	// as kernels before 6.8 do.
	OldKernel bool
	// IgnoredPorts is the setting of that name in .wslconfig.
	IgnoredPorts []uint16
	// Pause is how long the tracker waits after each call once it holds a port: the next
	// call waits with it. WSL's own waits 10 ms for its list of sockets.
	Pause time.Duration
}

// A Version of WSL, for example {2, 8, 4}. The zero value is the newest.
type Version [3]int

func (v Version) has(since Version) bool {
	return v == Version{} || slices.Compare(v[:], since[:]) >= 0
}

// What changed, and when.
var (
	findsPortZero = Version{2, 7, 1} // and a second bind renews
	matchesByPort = Version{2, 8, 5}
	trapsListen   = Version{2, 9, 5} // and finds port 0 of all threads
)

// A Port is what Windows reserves.
type Port struct {
	Proto  uint8 // unix.IPPROTO_TCP or IPPROTO_UDP
	Number uint16
}

// A Binding is what a program asks for.
type Binding struct {
	Proto uint8
	Addr  netip.AddrPort
}

func (b Binding) port() Port { return Port{b.Proto, b.Addr.Port()} }

// A Call is one that the tracker was asked about.
type Call struct {
	Name   string         // "bind" or "listen"
	PID    int            // of the process, not of the thread
	Socket string         // the kernel's name of the protocol: "TCP", "UDPv6", "MPTCP", "NETLINK 12"
	Addr   netip.AddrPort // zero if it is no Internet address
	Result int32          // zero if it went on, or what Windows returned
}

// A Tracker is the only one of its network namespace.
type Tracker struct {
	opts    Options
	netns   string // as /proc has it
	sockets *Sockets
	windows *windows

	// mu is WSL's single thread: whoever has it is asked about, or looks.
	mu      sync.Mutex
	ledger  ledger
	skipped time.Duration // by Advance
	calls   []Call
	dead    bool
	traps   map[*os.File]struct{}
	serving sync.WaitGroup
}

// New makes a tracker for the network namespace of a descriptor. first and last are
// WSL's own block of ports. changed is called when Windows has reserved a port or given
// one up, and may call Ports.
func New(opts Options, netns int, first, last uint16, changed func()) (*Tracker, error) {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", netns))
	if err != nil {
		return nil, err
	}
	sockets, err := OpenSockets(netns)
	if err != nil {
		return nil, err
	}
	t := &Tracker{
		opts: opts, netns: name, sockets: sockets,
		windows: newWindows(opts, first, last, changed),
		traps:   map[*os.File]struct{}{},
	}
	t.ledger = ledger{
		exact:  opts.Consomme || !opts.Version.has(matchesByPort),
		renews: opts.Version.has(findsPortZero),
		ask:    t.windows.request,
		until:  map[Binding]time.Time{},
	}
	return t, nil
}

// Ports are those that Windows has reserved for Linux, sorted. In consomme they are those
// that it listens on at 127.0.0.1.
func (t *Tracker) Ports() []Port { return t.windows.ports() }

// Refuse has Windows refuse a port from now on, as when a program of Windows has it.
func (t *Tracker) Refuse(p Port) { t.windows.refuse(p) }

// Allow ends that.
func (t *Tracker) Allow(p Port) { t.windows.allow(p) }

// Calls are all that the tracker was asked about.
func (t *Tracker) Calls() []Call {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.calls)
}

// Binds is how many calls of bind() the tracker was asked about.
func (t *Tracker) Binds() (n int) {
	for _, c := range t.Calls() {
		if c.Name == "bind" {
			n++
		}
	}
	return n
}

// Poll lists the sockets and gives back what is gone. WSL does this each second, and
// not while it holds nothing.
func (t *Tracker) Poll() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.poll()
}

// Advance lets time pass for the tracker, and polls.
func (t *Tracker) Advance(d time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.skipped += d
	return t.poll()
}

func (t *Tracker) now() time.Time { return time.Now().Add(t.skipped) }

func (t *Tracker) poll() error {
	if t.dead || len(t.ledger.until) == 0 {
		return nil
	}
	states := AnyState
	if t.opts.OldKernel {
		states &^= TCPBoundInactive
	}
	var seen []Binding
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		list, err := t.sockets.List(proto, states)
		if err != nil {
			return err
		}
		seen = append(seen, list...)
	}
	t.ledger.look(seen, t.now())
	return nil
}

// Kill ends the tracker as if it had crashed: each bind() fails with ENOSYS from now on,
// and Windows keeps what it has.
func (t *Tracker) Kill() {
	t.mu.Lock()
	t.dead = true
	for trap := range t.traps {
		_ = trap.Close() // which is all that the kernel needs
	}
	t.mu.Unlock()
	t.serving.Wait()
}

// Close ends the tracker.
func (t *Tracker) Close() error {
	t.Kill()
	return t.sockets.Close()
}
