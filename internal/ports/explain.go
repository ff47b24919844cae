package ports

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/windows"
)

// Facts are what is known of the ports of one protocol.
type Facts struct {
	Proto string // tcp or udp
	// Mirrored says that the network is mirrored, as far as one can see.
	Mirrored bool
	// Version is WSL's, "" if it is unknown.
	Version   string
	Block     Block
	Listeners []Listener // of both protocols
	Published []status.Port
	Windows   windows.Ports
}

// A State says whether a program in Linux can have a port.
type State string

// The states.
const (
	Free    State = "free"
	Taken   State = "taken"   // somebody has it
	Blocked State = "blocked" // nobody has it, and yet it is of no use
)

// A Verdict says who has a port, or why it cannot be had.
type Verdict struct {
	Proto string `json:"proto"`
	Port  uint16 `json:"port"`
	State State  `json:"state"`
	// Reasons say why, Notes what else is good to know.
	Reasons []string `json:"reasons"`
	Notes   []string `json:"notes"`
	// Linux and Windows are commands that help, in their order: for a shell here,
	// and for an administrator's console in Windows.
	Linux   []string `json:"linux"`
	Windows []string `json:"windows"`
	// Next is the next port that is free, 0 if there is none.
	Next uint16 `json:"next"`
}

// Explain says what is known of a port. It is a pure function.
func Explain(f Facts, port uint16) Verdict {
	v := f.explain(port)
	// Upwards first: 8080 is mostly wanted because it is not 80.
	for p := int(port) + 1; p <= 65535 && v.Next == 0; p++ {
		if f.good(uint16(p)) {
			v.Next = uint16(p)
		}
	}
	for p := int(port) - 1; p >= firstUser && v.Next == 0; p-- {
		if f.good(uint16(p)) {
			v.Next = uint16(p)
		}
	}
	return v
}

// firstUser is the first port that takes no right to bind
// (net.ipv4.ip_unprivileged_port_start).
const firstUser = 1024

// neverWorks is a port to which connections over localhost never come
// (WSL#12891, WSL#41135).
const neverWorks = 5004

// good reports whether a port may be proposed: it is free, and nothing speaks
// against it.
func (f Facts) good(port uint16) bool {
	v := f.explain(port)
	return v.State == Free && !f.Windows.Dynamic.Contains(port) && !f.Block.Contains(port)
}

func (f Facts) explain(port uint16) Verdict {
	v := Verdict{Proto: f.Proto, Port: port, State: Free,
		Reasons: []string{}, Notes: []string{}, Linux: []string{}, Windows: []string{}} // never null
	f.inLinux(&v)
	f.inBlock(&v)
	f.inWindows(&v)
	if f.Mirrored && port == neverWorks && f.Proto == "tcp" {
		v.because(Blocked, "connections to port %d over localhost never complete in mirrored mode, whoever listens (WSL#41135): choose another port", port)
	}
	if port < firstUser && v.State == Free {
		v.note("a port below %d takes root, or CAP_NET_BIND_SERVICE", firstUser)
	}
	return v
}

// because adds a reason. That somebody has a port is the stronger word.
func (v *Verdict) because(state State, format string, args ...any) {
	if v.State != Taken {
		v.State = state
	}
	v.Reasons = append(v.Reasons, fmt.Sprintf(format, args...))
}

func (v *Verdict) note(format string, args ...any) {
	v.Notes = append(v.Notes, fmt.Sprintf(format, args...))
}

// inLinux adds who has the port in Linux.
func (f Facts) inLinux(v *Verdict) {
	var nameless bool
	for _, l := range f.Listeners {
		if l.Proto != f.Proto || l.Addr.Port() != v.Port {
			continue
		}
		does := "listens on"
		if l.Bound {
			does = "holds, without listening (ss does not show it),"
		}
		if !l.TakesIPv4() {
			v.note("%s %s %s: this is IPv6, which WSL does not mirror", l.Who(), does, l.Addr)
			continue
		}
		v.because(Taken, "%s %s %s", l.Who(), does, l.Addr)
		if l.Program == "" {
			nameless = true
		} else {
			v.Linux = append(v.Linux, fmt.Sprintf("ps -fp %d", l.PID))
		}
	}
	v.Linux = slices.Compact(v.Linux)
	if nameless {
		v.note("a program without a name here belongs to another user, or to another distribution: all share one network")
		v.Linux = append(v.Linux, fmt.Sprintf("sudo ss -%snap 'sport = :%d'", v.Proto[:1], v.Port))
	}
	listened := v.State == Taken
	for _, p := range f.Published {
		if p.Proto != f.Proto || p.Port != v.Port {
			continue
		}
		v.because(Taken, "%s publishes it on %s, for the container at %s", p.Engine, p.Address, p.Target)
		if p.Engine == "docker" {
			v.Linux = append(v.Linux, fmt.Sprintf("docker ps --filter publish=%d/%s", p.Port, p.Proto))
		}
		if !listened {
			v.note("nobody in Linux has bound it, so Windows never learns of it")
		}
	}
}

// inBlock adds that the port is one of those for outgoing connections.
func (f Facts) inBlock(v *Verdict) {
	switch b := f.Block; {
	case !b.Contains(v.Port):
	case f.Mirrored:
		v.because(Blocked, "it lies in the block %d-%d, which WSL has reserved in Windows for Linux's own connections: choose another port", b.First, b.Last)
	default:
		v.note("it lies in the range %d-%d of Linux's own connections, any of which may take it", b.First, b.Last)
	}
}

// inWindows adds what Windows has to do with the port.
func (f Facts) inWindows(v *Verdict) {
	var starred, winnat, reserve bool
	for _, r := range f.Windows.Excluded {
		starred = starred || r.Administered && r.Contains(v.Port)
	}
	for _, r := range f.Windows.Excluded {
		switch {
		case !r.Contains(v.Port):
		case r.Administered:
			v.note("an administrator has excluded %s in Windows: it is kept free, and may be bound", span(r))
		default:
			v.because(Blocked, "a Windows program has reserved %s (most often Hyper-V or WinNAT), so that nobody else may bind it", span(r))
			winnat, reserve = true, !starred
		}
	}
	denied, known := DeniesDynamic(f.Version)
	denied = denied && f.Mirrored
	if d := f.Windows.Dynamic; d.Contains(v.Port) && (denied || !starred) {
		switch {
		case denied:
			v.because(Blocked, "it lies in Windows' dynamic range %s, which WSL %s refuses to Linux (WSL#40984)", span(d), f.Version)
			v.Linux = append(v.Linux, "wsl.exe --update", "wsl.exe --shutdown")
		case f.Mirrored && !known:
			v.note("it lies in Windows' dynamic range %s: WSL 2.8.7 to 2.9.4 refuses that to Linux (WSL#40984), and any Windows program may take it", span(d))
			reserve = true
		default:
			v.note("it lies in Windows' dynamic range %s: any Windows program may take it", span(d))
			reserve = true
		}
		if d.First < usualDynamic {
			v.Windows = append(v.Windows, fmt.Sprintf("netsh int ipv4 set dynamicportrange %s startport=%d numberofports=%d", v.Proto, usualDynamic, 65536-usualDynamic))
		}
	}
	taken := v.State == Taken
	for _, l := range f.Windows.Listeners {
		on := l.Addr.Addr()
		if l.Addr.Port() != v.Port || on.Is6() && !on.IsUnspecified() {
			continue
		}
		// In NAT mode Windows itself listens on what Linux listens on.
		if !f.Mirrored && taken {
			continue
		}
		v.because(Taken, "a Windows program (process %d) listens on %s", l.PID, l.Addr)
		v.Windows = append(v.Windows, fmt.Sprintf(`tasklist /fi "PID eq %d"`, l.PID))
	}
	exclusion := fmt.Sprintf("netsh int ipv4 add excludedportrange protocol=%s startport=%d numberofports=1 store=persistent", v.Proto, v.Port)
	switch {
	case winnat:
		v.Windows = append(v.Windows, "net stop winnat")
		if reserve {
			v.Windows = append(v.Windows, exclusion)
		}
		v.Windows = append(v.Windows, "net start winnat")
	case reserve && v.State == Free:
		v.Windows = append(v.Windows, exclusion)
	}
}

// usualDynamic is where Windows' dynamic range begins unless it was changed.
const usualDynamic = 49152

// DeniesDynamic reports whether that version of WSL refuses Windows' dynamic
// range to Linux: WSL pull request 40597 brought it, 41085 took it back.
func DeniesDynamic(version string) (denied, known bool) {
	var number int
	for i, part := range strings.SplitN(version, ".", 4) {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 || n > 999 {
			return false, false
		}
		if i < 3 {
			number = number*1000 + n
		}
	}
	if strings.Count(version, ".") < 2 {
		return false, false
	}
	return 2_008_007 <= number && number <= 2_009_004, true
}

// span names the ports of a range.
func span(r windows.Range) string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Who names the program.
func (l Listener) Who() string {
	if l.Program == "" {
		return "a program"
	}
	return fmt.Sprintf("%s (process %d)", l.Program, l.PID)
}
