package ports

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/wslmirror/wslmirror/internal/status"
)

// Possible values of a status.Port's Holder.
const (
	ByEngine  = "engine"
	ByProgram = "program"
	ByHolder  = "wslmirror"
	ByUnknown = "unknown" // a socket of a program that this user may not see
	ByNobody  = "nobody"
)

// engines are the programs with which engines listen on their ports, named as in /proc.
var engines = []string{"docker-proxy", "dockerd", "conmon", "rootlessport", "rootlesskit", "containerd-shim", "podman", "kube-proxy", "k3s-server"}

// Hold is the state of a holder, or why it is not known.
type Hold struct {
	status.Hold
	Err error
}

// ReadHold reads the state of the holder that belongs to the daemon publishing in dir.
func ReadHold(dir string) Hold {
	h, err := status.ReadHold(status.HoldDir(dir))
	return Hold{h, err}
}

// Runs reports whether a holder runs.
func (h Hold) Runs() bool { return h.Err == nil }

// Refused reports whether Windows has refused one of the ports.
func (h Hold) Refused() bool {
	return slices.ContainsFunc(h.Hold.Refused, func(r status.Refusal) bool { return r.Windows })
}

// Holder returns whose socket tells Windows about a published port, or ByNobody and
// why. windows returns why Windows refuses a port. It may be nil.
func (h Hold) Holder(p status.Port, listeners []Listener, windows func(port uint16, proto string) string) (who, why string) {
	for _, l := range listeners {
		if !l.Announces(p.Proto, p.Port, p.Address) {
			continue
		}
		switch {
		case l.Holder:
			who = ByHolder
		case l.Program == "":
			return ByUnknown, ""
		case slices.ContainsFunc(engines, func(e string) bool { return strings.HasPrefix(l.Program, e) }):
			return ByEngine, ""
		default:
			return ByProgram, ""
		}
	}
	if who != "" {
		return who, ""
	}
	name := fmt.Sprintf("%d/%s", p.Port, p.Proto)
	for _, r := range h.Hold.Refused {
		switch {
		case r.Port != name:
		case r.Windows && windows != nil:
			return ByNobody, windows(p.Port, p.Proto)
		default:
			return ByNobody, r.Reason
		}
	}
	switch {
	case p.Path == status.PathProxy:
		return ByNobody, "its engine does not listen on it"
	case errors.Is(h.Err, fs.ErrNotExist):
		return ByNobody, "wslmirror-hold is not running, or WSLMIRROR_HOLD=false turns it off"
	case h.Err != nil:
		return ByNobody, "the state of wslmirror-hold is unknown: " + h.Err.Error()
	}
	return ByNobody, ""
}

// Refused explains in one line why Windows refuses a port, using the reasons of
// Explain.
func (f Facts) Refused(port uint16) string {
	v := Verdict{Proto: f.Proto, Port: port, State: Free}
	f.inWindows(&v)
	if len(v.Reasons) == 0 {
		return "Windows refuses it, and gives no reason"
	}
	return "Windows refuses it: " + strings.Join(v.Reasons, "; ")
}
