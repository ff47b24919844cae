package tracker

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// What Windows returns for a port that Linux cannot have.
const (
	inUse = int32(unix.EADDRINUSE)
	// inUseConsomme is HRESULT_FROM_WIN32(WSAEADDRINUSE), which WSL passes on as if it
	// were an errno (ConsommeNetworking.cpp). The kernel returns what is too large for one
	// as the result of the call.
	inUseConsomme = -2147014848
)

// portDNS is never reserved: WSL adds it to ignoredPorts for Docker Desktop.
const portDNS = 53

var localhost = netip.MustParseAddr("127.0.0.1")

// windows is who reserves ports.
type windows struct {
	consomme bool
	exempt   func(Port) bool
	changed  func()

	mu       sync.Mutex
	refused  map[Port]bool
	reserved map[Port]int // how many bindings have it
}

func newWindows(opts Options, first, last uint16, changed func()) *windows {
	return &windows{
		consomme: opts.Consomme, changed: changed,
		exempt: func(p Port) bool {
			return p.Number == portDNS || slices.Contains(opts.IgnoredPorts, p.Number) || first <= p.Number && p.Number <= last
		},
		refused: map[Port]bool{}, reserved: map[Port]int{},
	}
}

// request reserves the port of b, or gives it up.
func (w *windows) request(b Binding, reserve bool) (result int32) {
	result, changed := w.decide(b, reserve)
	if changed {
		w.changed()
	}
	return result
}

func (w *windows) decide(b Binding, reserve bool) (result int32, changed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	addr, p := b.Addr.Addr(), b.port()
	if addr.Is4() && addr.IsLoopback() && addr != localhost {
		return 0, false
	}
	// In consomme the program owns its port in Windows as well. These are mirrored mode's.
	if !w.consomme && w.exempt(p) {
		return 0, false
	}
	if reserve && w.reserved[p] == 0 && w.refused[p] {
		if w.consomme {
			return inUseConsomme, false
		}
		return inUse, false
	}
	// In consomme Windows listens on the same address. What it does for another one than
	// 127.0.0.1 is not seen on the bench.
	if w.consomme && addr != localhost && addr != netip.IPv4Unspecified() {
		return 0, false
	}
	if reserve {
		w.reserved[p]++
		return 0, w.reserved[p] == 1
	}
	if w.reserved[p]--; w.reserved[p] > 0 {
		return 0, false
	}
	delete(w.reserved, p)
	return 0, true
}

func (w *windows) refuse(p Port) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused[p] = true
}

func (w *windows) allow(p Port) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.refused, p)
}

func (w *windows) ports() []Port {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.SortedFunc(maps.Keys(w.reserved), func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Number, b.Number))
	})
}
