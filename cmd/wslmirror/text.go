package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/netwatch"
)

// printStatus prints s for people: the state, the path of a packet, the figures,
// and what to do if all is not well.
func printStatus(w io.Writer, on screen, s status.Snapshot, here surroundings) error {
	var b bytes.Buffer
	m, ok := map[status.State]mark{status.Active: markOn, status.Error: markFault}[s.State]
	if !ok {
		m = markOff
	}
	b.WriteString(on.fold(on.mark(m, text.Line(string(s.State)))+": "+text.Line(s.Sentence()), "", 2) + "\n")
	if s.State == status.Active {
		to := "127.0.0.1:PORT"
		if s.Path == status.PathDirect {
			to = "container or proxy"
		}
		path := fmt.Sprintf("localhost:PORT ──▶ %s ──▶ WSLPREROUTING ──▶ %s", text.Line(s.Interface.Name), to)
		fmt.Fprintf(&b, "\n  Windows            Linux\n%s\n", on.fold(on.show(path), "  ", 15))
	}
	var rows [][]string
	row := func(name, format string, args ...any) {
		rows = append(rows, []string{name, fmt.Sprintf(format, args...)})
	}
	if s.Interface.Present {
		row("interface", "%s, index %d", text.Line(s.Interface.Name), s.Interface.Index)
	} else {
		row("interface", "%s, missing", text.Line(s.Interface.Name))
	}
	if s.Mode != "" {
		row("mode", "%s", text.Line(netwatch.Mode(s.Mode).String()))
	}
	if s.Table.Installed {
		row("table", "%s %s, installed", text.Line(s.Table.Family), text.Line(s.Table.Name))
		if len(s.Directions) == 0 { // of an older daemon
			row("counted", "%s, %s in first packets", plural(s.Rule.Packets, "new connection"), bytesText(s.Rule.Bytes))
		}
		row("path", "%s", text.Line(s.Path))
	}
	if !s.Since.IsZero() {
		since := s.Since.Local().Format(time.DateTime)
		if !here.now.IsZero() {
			since += " (" + ago(here.now.Sub(s.Since)) + ")"
		}
		row("since", "%s", since)
	}
	row("version", "%s", text.Line(s.Version))
	b.WriteString("\n")
	on.table(&b, "  ", rows)
	printDirections(&b, on, s)
	printPorts(&b, on, s)
	if a := advice(s, here); a != "" {
		b.WriteString("\n")
		on.printAdvice(&b, a)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// printAdvice folds the paragraphs of an advice. Lines with a deeper indent are
// commands to copy, and stay as they are.
func (s screen) printAdvice(b *bytes.Buffer, advice string) {
	var paragraph []string
	flush := func() {
		if len(paragraph) > 0 {
			b.WriteString(s.fold(strings.Join(paragraph, " "), "  ", 0) + "\n")
		}
		paragraph = nil
	}
	for line := range strings.Lines(advice) {
		if strings.HasPrefix(line, "      ") {
			flush()
			b.WriteString(line)
			continue
		}
		paragraph = append(paragraph, line)
	}
	flush()
}

// printDirections lists the directions, with their state and what was counted.
func printDirections(b *bytes.Buffer, on screen, s status.Snapshot) {
	if !s.Table.Installed || len(s.Directions) == 0 {
		return
	}
	names := map[string]string{
		status.FromWindows: "from Windows", status.FromLinux: "from Linux", status.ClosedPorts: "closed ports",
		status.OwnAddress: "own address", status.ContainersToWindows: "containers to Windows",
	}
	rows := [][]string{{"DIRECTION", "STATE", "COUNTED", ""}}
	for _, d := range s.Directions {
		state, counted := "off", ""
		if d.Active {
			state, counted = "on", plural(d.Connections, "connection")
			if d.Name == status.ClosedPorts {
				counted = fmt.Sprintf("%d refused", d.Connections)
			}
		}
		more := strings.Join(d.Ports, ", ")
		if d.Reason != "" {
			more = strings.TrimPrefix(more+"; "+d.Reason, "; ")
		}
		name, ok := names[d.Name]
		if !ok {
			name = d.Name // of a newer daemon
		}
		rows = append(rows, []string{text.Line(name), state, counted, text.Line(more)})
	}
	b.WriteString("\n")
	on.table(b, "  ", rows)
}

// plural is a number with its noun: "1 port", "2 ports".
func plural(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// printPorts lists the published ports, and the path to each where there is one.
func printPorts(b *bytes.Buffer, on screen, s status.Snapshot) {
	if len(s.Ports) == 0 {
		return
	}
	rows := [][]string{{"PORT", "ON", "TO", "ENGINE", "PATH"}}
	for _, p := range s.Ports {
		path := p.Path
		if more := cmp.Or(p.Reason, pathText(p)); more != "" {
			path += ": " + more
		}
		if by := heldBy(p); by != "" {
			path += "; " + by
		}
		rows = append(rows, []string{fmt.Sprintf("%d/%s", p.Port, text.Line(p.Proto)), text.Line(p.Address), text.Line(p.Target), text.Line(p.Engine), text.Line(path)})
	}
	if !s.Table.Installed { // another daemon may use another path, or none runs
		for i := range rows {
			rows[i] = rows[i][:4]
		}
	}
	b.WriteString("\n")
	on.table(b, "  ", rows)
}

// pathText says how packets from localhost reach a published port.
func pathText(p status.Port) string {
	switch {
	case p.Path == status.PathDirect:
		return "WSLPREROUTING sends it to the container"
	case p.Proxied():
		return "WSLPREROUTING sends it to the engine's proxy"
	case p.Path == status.PathProxy:
		return "WSLPREROUTING sends it to the listener in Linux"
	case p.Path == status.PathKernel && p.ByEngine():
		return "the engine's own rules handle it"
	case p.Path == status.PathKernel:
		return "other rules forward it"
	}
	return "" // of a newer daemon
}

// writeJSON prints v as JSON with an indent.
func writeJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false) // commands contain < and >
	if err := out.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(text.JSON(b.Bytes()))
	return err
}

func bytesText(n uint64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1000*1000:
		return fmt.Sprintf("%.1f kB", float64(n)/1000)
	case n < 1000*1000*1000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

func ago(d time.Duration) string {
	switch {
	case d < 0:
		return "in the future: the clock was set" // the VM's clock can jump
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}
