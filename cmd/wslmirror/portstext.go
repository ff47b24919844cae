package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/internal/windows"
)

// A warning is what is wrong and what to do.
type warning struct {
	Text, Next string
}

// warnings are the faults of the ports.
func (f portFacts) warnings() []warning {
	list := []warning{}
	b := f.block
	if b.Widened() {
		list = append(list, warning{
			fmt.Sprintf("net.ipv4.ip_local_port_range is %d-%d, but WSL has reserved only %d-%d in Windows: connections to localhost hang (WSL#41227)",
				b.First, b.Last, b.Windows.First, b.Windows.Last),
			fmt.Sprintf("sudo sysctl -w net.ipv4.ip_local_port_range='%d %d', remove the setting from /etc/sysctl.d, and run 'wsl --shutdown' in Windows", b.Windows.First, b.Windows.Last),
		})
	}
	if w := b.Worst; w.Share() >= ports.NearlyFull {
		list = append(list, warning{
			fmt.Sprintf("%d of %d source ports are in use %s: connections will soon fail with 'Cannot assign requested address'", w.Used, w.Of, towards(w)),
			"let the client reuse its connections; newer versions of WSL reserve 4096 ports ('wsl --update' in Windows)",
		})
	}
	for _, proto := range []string{"tcp", "udp"} {
		d := f.windows[proto].Dynamic
		if denied, _ := ports.DeniesDynamic(f.version); denied && f.mirrored && d.Last != 0 {
			list = append(list, warning{
				fmt.Sprintf("WSL %s does not let Linux bind any %s port of Windows' dynamic range, %d-%d (WSL#40984)", f.version, proto, d.First, d.Last),
				"in Windows: 'wsl --update', then 'wsl --shutdown'",
			})
		}
	}
	for _, p := range f.daemon.Ports {
		if !f.listened(p) {
			w := warning{
				fmt.Sprintf("%d/%s is published by %s, but no program in Linux listens on it, so Windows does not know of it", p.Port, p.Proto, p.Engine),
				"let the engine listen on its ports (Docker: userland-proxy; Podman does so), or publish with another engine",
			}
			if p.Path == status.PathKernel || p.Path == status.PathDirect {
				if p.HolderReason != "" {
					w.Text += ": " + p.HolderReason
					w.Next = fmt.Sprintf("wslmirror ports explain %d/%s", p.Port, p.Proto)
				}
				if !f.hold.Runs() {
					w.Next = "sudo systemctl start wslmirror-hold"
				}
			}
			list = append(list, w)
		}
	}
	return list
}

// listened reports whether a socket tells Windows of a published port.
func (f portFacts) listened(p status.Port) bool {
	return slices.ContainsFunc(f.listeners, func(l ports.Listener) bool { return serves(l, p) })
}

// serves reports whether l tells Windows of the published port p.
func serves(l ports.Listener, p status.Port) bool { return l.Announces(p.Proto, p.Port, p.Address) }

// How a Windows program reaches a listener.
const (
	byLocalhost = "localhost"
	byAddress   = "through that address"
	byRelay     = "localhost, through WSL's relay"
	notBound    = "no: it does not listen"
	notIPv6     = "no: IPv6 is not mirrored"
	notThat     = "no: only 127.0.0.1 is mirrored"
	unknownPath = "unknown"
)

// fromWindows says how a Windows program reaches l.
func (f portFacts) fromWindows(l ports.Listener) string {
	on := l.Addr.Addr()
	for _, p := range f.daemon.Ports {
		if f.shared && serves(l, p) {
			return f.pathTo(p)
		}
	}
	switch {
	case l.Bound:
		return notBound
	case f.mode == "nat" && l.Proto == "tcp" && (on.IsUnspecified() || on.IsLoopback()):
		return byRelay
	case !f.shared:
		return unknownPath
	case !f.mirrored && (!l.TakesIPv4() || !on.IsUnspecified() && !on.IsLoopback()):
		return unknownPath // Windows listens for these in consomme, and not on localhost alone
	case !l.TakesIPv4():
		return notIPv6
	case on.IsUnspecified() || on == netip.AddrFrom4([4]byte{127, 0, 0, 1}):
		return byLocalhost
	case on.IsLoopback():
		return notThat
	}
	return byAddress
}

// pathTo says how packets to localhost in Windows reach a published port.
func (f portFacts) pathTo(p status.Port) string {
	serving := f.daemon.State == status.Active || f.daemon.State == status.Standby
	switch {
	case p.Path == status.PathKernel && p.ByEngine():
		return "localhost, through the engine's rules"
	case p.Path == status.PathKernel:
		return "localhost, through other rules that forward it"
	case !serving:
		return unknownPath
	case p.Path == status.PathDirect:
		return "localhost, straight to the container"
	case p.Proxied():
		return "localhost, to the engine's proxy"
	}
	return byLocalhost
}

// problems says what Windows did not report, and why.
func (f portFacts) problems() []string {
	return windows.Summary(append(f.windows["tcp"].Problems(), f.windows["udp"].Problems()...)...)
}

// towards is the destination of a load, in words.
func towards(w ports.Load) string {
	if !w.Destination.IsValid() {
		return "for " + w.Proto
	}
	return fmt.Sprintf("to %s/%s", w.Destination, w.Proto)
}

// text is the answer for people. The warnings come first.
func (f portFacts) text(on screen) string {
	var b bytes.Buffer
	for _, w := range f.warnings() {
		next := on.show("→ ") + text.Line(w.Next)
		if strings.HasPrefix(w.Next, "sudo ") {
			next = "  " + next // a command, which people copy
		} else {
			next = on.fold(next, "  ", 2)
		}
		fmt.Fprintf(&b, "%s\n%s\n\n", on.fold(on.mark(markWarning, "warning")+": "+text.Line(w.Text), "", 2), next)
	}
	f.printListeners(&b, on)
	f.printBlock(&b, on)
	f.printWindows(&b, on)
	return b.String()
}

// mostRows is how many rows of a table people see.
const mostRows = 40

func (f portFacts) printListeners(b *bytes.Buffer, on screen) {
	type row struct {
		port  uint16
		cells []string
	}
	var rows []row
	add := func(port uint16, proto string, cells ...string) {
		for i := range cells {
			cells[i] = text.Line(cells[i])
		}
		rows = append(rows, row{port, append([]string{fmt.Sprintf("%d/%s", port, proto)}, cells...)})
	}
	for _, l := range f.listeners {
		if f.mirrored && l.Proto == "udp" && f.block.Contains(l.Addr.Port()) {
			continue // a client that waits for an answer
		}
		program, to := "?", ""
		if l.Program != "" {
			program = fmt.Sprintf("%s (%d)", l.Program, l.PID)
		} else if l.Holder {
			program = "wslmirror"
		}
		for _, p := range f.daemon.Ports {
			if serves(l, p) {
				to = p.Engine + ": " + p.Target
			}
		}
		add(l.Addr.Port(), l.Proto, l.Addr.Addr().String(), program, to, f.fromWindows(l))
	}
	for _, p := range f.daemon.Ports {
		if !f.listened(p) {
			add(p.Port, p.Proto, p.Address, "none", p.Engine+": "+p.Target, "no: Windows does not know of it")
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int { return int(a.port) - int(b.port) })
	fmt.Fprintln(b, "Ports in Linux")
	cells := [][]string{{"PORT", "ON", "PROGRAM", "PUBLISHED", "FROM WINDOWS"}}
	for _, r := range rows[:min(len(rows), mostRows)] {
		cells = append(cells, r.cells)
	}
	on.table(b, "  ", cells)
	if more := len(rows) - mostRows; more > 0 {
		fmt.Fprintf(b, "  %s and %d more: see 'wslmirror ports --json'\n", on.show("…"), more)
	}
	if slices.ContainsFunc(f.listeners, func(l ports.Listener) bool { return l.Program == "" && !l.Holder }) {
		fmt.Fprintln(b, "  ?: owned by another user (try sudo) or another distribution")
	}
	for _, note := range f.notes() {
		fmt.Fprintln(b, on.fold(text.Line(note), "  ", 0))
	}
}
