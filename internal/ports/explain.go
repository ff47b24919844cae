// Package ports finds out what Linux's ports are used for, and explains why a port is
// not available. It only reads and opens no connection.
package ports

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/windows"
)

// Facts are what is known about the ports of one protocol.
type Facts struct {
	Proto string // tcp or udp
	// Mirrored says that the network is mirrored, as far as that is known.
	Mirrored bool
	// Consomme says that WSL runs in the mode consomme, in which Windows listens on
	// localhost on behalf of Linux.
	Consomme bool
	// Version is the WSL version, "" if unknown.
	Version   string
	Block     Block
	Listeners []Listener // of both protocols
	Published []status.Port
	Windows   windows.Ports
}

// A State says whether a program in Linux can use a port.
type State string

// The states.
const (
	Free    State = "free"
	Taken   State = "taken"   // in use
	Blocked State = "blocked" // not in use, but not usable
	Unknown State = "unknown" // not in use in Linux, and Windows could not be asked
)

// A Verdict says who uses a port, or why it is not available.
type Verdict struct {
	Proto string `json:"proto"`
	Port  uint16 `json:"port"`
	State State  `json:"state"`
	// Reasons explain the state, Notes give further information.
	Reasons []string `json:"reasons"`
	Notes   []string `json:"notes"`
	// Linux and Windows are commands that help, in order: for a shell in Linux, and for
	// an administrator's console in Windows.
	Linux   []string `json:"fix"`
	Windows []string `json:"fix_windows"`
	// Next is the next free port, 0 if there is none. If Windows could not be asked, it
	// is the next one that Linux does not use.
	Next uint16 `json:"next_port"`
	// Asked says that Windows has reported which ports it keeps.
	Asked bool `json:"-"`
	// InUse says that a Linux program or container uses the port, and that nothing is
	// wrong with that.
	InUse bool `json:"-"`
}

// Explain returns what is known about a port. It is a pure function.
func Explain(f Facts, port uint16) Verdict {
	v := f.explain(port)
	// Search upwards first: people mostly want 8080 because it is not 80.
	if port < 65535 {
		for _, next := range f.Free(port+1, 1) {
			v.Next = next
		}
	}
	for p := int(port) - 1; p >= firstUser && v.Next == 0; p-- {
		if f.good(uint16(p)) {
			v.Next = uint16(p)
		}
	}
	return v
}

// Free returns up to n ports, starting at from, that can be recommended. If Windows
// could not be asked, these are ports that Linux does not use.
func (f Facts) Free(from uint16, n int) (list []uint16) {
	for p := int(from); p <= 65535 && len(list) < n; p++ {
		if f.good(uint16(p)) {
			list = append(list, uint16(p))
		}
	}
	return list
}

// Asked reports whether Windows has reported which ports it keeps.
func (f Facts) Asked() bool {
	return f.Windows.ExcludedErr == nil && f.Windows.ListenersErr == nil && f.Windows.DynamicErr == nil
}

// firstUser is the first port that needs no privilege to bind
// (net.ipv4.ip_unprivileged_port_start).
const firstUser = 1024

// Silent explains what happens with a port that Windows refuses in consomme
// (ConsommeNetworking.cpp returns an HRESULT, which is not an errno).
const Silent = "in the mode consomme, bind() of a port that Windows refuses returns 2147014848 with errno 0 instead of -1, so many programs believe that they have the port, and wait in vain"

// neverWorks is a port on which connections over localhost never arrive (WSL#12891,
// WSL#41135).
const neverWorks = 5004

// good reports whether a port can be recommended: it is free, and there is nothing
// against it.
func (f Facts) good(port uint16) bool {
	v := f.explain(port)
	return (v.State == Free || v.State == Unknown) && !f.Windows.Dynamic.Contains(port) && !f.Block.Contains(port) &&
		!slices.ContainsFunc(f.Listeners, func(l Listener) bool { return l.HoldsIPv6() && l.Proto == f.Proto && l.Addr.Port() == port })
}

func (f Facts) explain(port uint16) Verdict {
	v := Verdict{Proto: f.Proto, Port: port, State: Free, Asked: f.Asked(),
		Reasons: []string{}, Notes: []string{}, Linux: []string{}, Windows: []string{}} // never null in JSON
	f.inLinux(&v)
	f.inBlock(&v)
	f.inWindows(&v)
	for _, line := range windows.Summary(f.Windows.Problems()...) {
		if !f.notAsked(port) && (v.State == Free || v.State == Unknown) {
			v.because(Unknown, "Windows could not be asked whether it keeps this port: %s", line)
		} else {
			v.note("Windows could not be asked: %s", line)
		}
	}
	if f.Consomme && v.State != Free && !slices.ContainsFunc(f.Listeners, func(l Listener) bool { return l.Proto == f.Proto && l.Addr.Port() == port }) {
		v.note("%s", Silent)
	}
	if f.Mirrored && port == neverWorks && f.Proto == "tcp" {
		v.because(Blocked, "connections to port %d over localhost never complete in mirrored mode, whoever listens (WSL#41135): choose another port", port)
		v.InUse = false
	}
	if port < firstUser && (v.State == Free || v.State == Unknown) {
		v.note("a port below %d needs root or CAP_NET_BIND_SERVICE", firstUser)
	}
	return v
}

// because adds a reason. The state Taken has precedence.
func (v *Verdict) because(state State, format string, args ...any) {
	if v.State != Taken {
		v.State = state
	}
	v.Reasons = append(v.Reasons, fmt.Sprintf(format, args...))
}

func (v *Verdict) note(format string, args ...any) {
	v.Notes = append(v.Notes, fmt.Sprintf(format, args...))
}

// inLinux adds who uses the port in Linux.
func (f Facts) inLinux(v *Verdict) {
	var nameless, held, dead bool
	for _, p := range f.Published {
		if p.Proto != f.Proto || p.Port != v.Port {
			continue
		}
		v.because(Taken, "%s publishes it on %s, for the container at %s", p.Engine, p.Address, p.Target)
		if p.Engine == "docker" {
			v.Linux = append(v.Linux, fmt.Sprintf("docker ps --filter publish=%d/%s", p.Port, p.Proto))
		}
		if !slices.ContainsFunc(f.Listeners, func(l Listener) bool { return l.Announces(p.Proto, p.Port, p.Address) }) {
			v.note("no program in Linux listens on it, so Windows does not know of it")
			dead = true
		}
		v.InUse = !dead
	}
	for _, l := range f.Listeners {
		if l.Proto != f.Proto || l.Addr.Port() != v.Port {
			continue
		}
		if l.Holder {
			v.note("wslmirror holds it for Windows with a socket on %s; a program can still listen on 0.0.0.0", l.Addr)
			continue
		}
		does := "listens on " + l.Addr.String()
		if l.Bound {
			does = fmt.Sprintf("has bound %s and does not listen, so ss does not show it", l.Addr)
		}
		if l.HoldsIPv6() {
			v.note("%s %s: this is IPv6, which WSL does not mirror; another program can use the port for IPv4", l.Who(), does)
			held = true
			continue
		}
		v.because(Taken, "%s %s", l.Who(), does)
		v.InUse = !dead
		if l.Program == "" {
			nameless = true
		} else {
			v.Linux = append(v.Linux, fmt.Sprintf("ps -fp %d", l.PID))
		}
	}
	v.Linux = slices.Compact(v.Linux)
	if nameless {
		v.note("a program without a name belongs to another user or to another distribution: all distributions share one network")
		v.Linux = append(v.Linux, fmt.Sprintf("sudo ss -%snap 'sport = :%d'", v.Proto[:1], v.Port))
	}
	if held && v.State == Free {
		v.note("a program that listens on [::], as Node, Go and Java do by default, cannot use it: let it listen on 0.0.0.0 or 127.0.0.1")
	}
}

// inBlock adds that the port is in the range for outgoing connections. WSL lets
// programs bind the ports of its own block (OnPortAllocationRequest of its
// WslCoreGuestNetworkService.cpp). If somebody has widened the range, that is only a
// part of it.
func (f Facts) inBlock(v *Verdict) {
	switch b, ofWSL := f.Block, f.Block.OfWSL(); {
	case !b.Contains(v.Port):
	case f.Mirrored && ofWSL.Contains(v.Port):
		v.note("it is in the block %d-%d, which WSL has reserved in Windows for Linux's own connections; any of them may use it", ofWSL.First, ofWSL.Last)
		if v.State == Free {
			v.note("a Windows program that binds it gets 10013 (WSAEACCES), because the block contains it (WSL#40169). When WSL starts, it chooses a block without the ports that are in use in Windows (WSL#12228): stop WSL, exclude the port or start that program, and start WSL again")
			v.Windows = append(v.Windows, "wsl --shutdown", exclusion(v))
		}
	case f.Mirrored && ofWSL != Range{}:
		v.note("it is in the range %d-%d of Linux's own connections, but not in the block %d-%d, which WSL has reserved in Windows for them", b.First, b.Last, ofWSL.First, ofWSL.Last)
	default:
		v.note("it is in the range %d-%d of Linux's own connections; any of them may use it", b.First, b.Last)
	}
}

// DNS ports. WSL never asks Windows for the first and shares the others.
const (
	dns   = 53
	mdns  = 5353
	llmnr = 5355
)

// notAsked reports whether WSL gives Linux a port without asking Windows.
func (f Facts) notAsked(port uint16) bool {
	return f.Mirrored && (port == dns || f.Block.OfWSL().Contains(port))
}

// shared reports whether Linux and Windows may both use a port.
func (f Facts) shared(port uint16) bool {
	return f.Mirrored && (port == dns || f.Proto == "udp" && (port == mdns || port == llmnr))
}

// span formats a range of ports.
func span(r windows.Range) string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Who describes the program.
func (l Listener) Who() string {
	if l.Program == "" {
		return "a program"
	}
	return fmt.Sprintf("%s (process %d)", l.Program, l.PID)
}
