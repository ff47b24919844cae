package ports

import (
	"fmt"
	"strconv"
	"strings"
)

// inWindows adds how Windows uses the port.
func (f Facts) inWindows(v *Verdict) {
	var winnat, reserve bool
	if !f.notAsked(v.Port) {
		winnat, reserve = f.excluded(v)
	}
	f.listensInWindows(v)
	switch {
	case winnat:
		v.Windows = append(v.Windows, "net stop winnat")
		if reserve {
			v.Windows = append(v.Windows, exclusion(v))
		}
		v.Windows = append(v.Windows, "net start winnat")
	case reserve && v.State == Free:
		v.Windows = append(v.Windows, exclusion(v))
	}
}

// exclusion returns a command that keeps the port for programs that bind it explicitly.
func exclusion(v *Verdict) string {
	return fmt.Sprintf("netsh int ipv4 add excludedportrange protocol=%s startport=%d numberofports=1 store=persistent", v.Proto, v.Port)
}

// excluded adds the ranges of Windows that contain the port. winnat says that one
// belongs to a program, reserve that an exclusion of its own would keep the port free.
func (f Facts) excluded(v *Verdict) (winnat, reserve bool) {
	var starred bool
	for _, r := range f.Windows.Excluded {
		starred = starred || r.Administered && r.Contains(v.Port)
	}
	for _, r := range f.Windows.Excluded {
		switch {
		case !r.Contains(v.Port):
		case r.Administered:
			v.note("an administrator has excluded %s in Windows: it stays free, and can be bound", span(r))
		default:
			v.because(Blocked, "a Windows program (most often Hyper-V or WinNAT) has reserved %s, so no other program can bind it", span(r))
			winnat, reserve = true, !starred
		}
	}
	denied, known := DeniesDynamic(f.Version)
	denied = denied && f.Mirrored
	d := f.Windows.Dynamic
	if !d.Contains(v.Port) || !denied && starred {
		return winnat, reserve
	}
	switch {
	case denied:
		v.because(Blocked, "it is in Windows' dynamic range %s, which WSL %s does not let Linux bind (WSL#40984)", span(d), f.Version)
		v.Linux = append(v.Linux, "wsl.exe --update", "wsl.exe --shutdown")
	case f.Mirrored && !known:
		v.note("it is in Windows' dynamic range %s: WSL 2.8.7 to 2.9.4 does not let Linux bind it (WSL#40984), and any Windows program may use it", span(d))
		reserve = true
	default:
		v.note("it is in Windows' dynamic range %s: any Windows program may use it", span(d))
		reserve = true
	}
	if d.First < usualDynamic {
		v.Windows = append(v.Windows, fmt.Sprintf("netsh int ipv4 set dynamicportrange %s startport=%d numberofports=%d", v.Proto, usualDynamic, 65536-usualDynamic))
	}
	return winnat, reserve
}

// listensInWindows adds who uses the port in Windows.
func (f Facts) listensInWindows(v *Verdict) {
	taken := v.State == Taken
	for _, l := range f.Windows.Listeners {
		on := l.Addr.Addr()
		if l.Addr.Port() != v.Port || on.Is6() && !on.IsUnspecified() {
			continue
		}
		// In NAT mode Windows itself listens on the ports on which Linux listens.
		if !f.Mirrored && taken {
			continue
		}
		if f.shared(v.Port) {
			v.note("a Windows program (process %d) listens on %s, and WSL lets Linux use this port too", l.PID, l.Addr)
			continue
		}
		v.InUse = false
		v.because(Taken, "a Windows program (process %d) listens on %s", l.PID, l.Addr)
		v.Windows = append(v.Windows, fmt.Sprintf(`tasklist /fi "PID eq %d"`, l.PID))
	}
}

// usualDynamic is the default start of Windows' dynamic range.
const usualDynamic = 49152

// DeniesDynamic reports whether that version of WSL refuses Windows' dynamic range to
// Linux. WSL pull request 40597 introduced this, 41085 reverted it.
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
