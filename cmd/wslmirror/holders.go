package main

import (
	"slices"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/status"
)

// holders are the ports of s, with who holds them as far as is known. It asks Windows
// only if Windows has refused one.
func holders(dir string, s status.Snapshot) []status.Port {
	if len(s.Ports) == 0 {
		return s.Ports
	}
	var f portFacts
	if f.hold = ports.ReadHold(dir); f.hold.Refused() {
		f, _ = lookAtPorts(dir, "tcp", "udp")
	} else {
		f.listeners, _ = ports.Listeners()
	}
	if f.listeners == nil {
		return s.Ports
	}
	list := slices.Clone(s.Ports)
	for i := range list {
		list[i].Holder, list[i].HolderReason = f.hold.Holder(list[i], f.listeners, f.refused)
	}
	return list
}

// heldBy says who holds a port; "" if that is the engine itself or a program, which is
// the usual case.
func heldBy(p status.Port) string {
	switch {
	case p.Holder == ports.ByHolder:
		return "held by wslmirror"
	case p.Holder != ports.ByNobody:
		return ""
	case p.HolderReason == "":
		return "not held, so Windows does not know of it"
	}
	return "not held: " + p.HolderReason
}
