package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/netwatch"
)

// printStatus prints s for people: the state, the way of a packet, the figures,
// and what to do if all is not well.
func printStatus(w io.Writer, s status.Snapshot, here surroundings) error {
	var b bytes.Buffer
	mark := map[status.State]string{status.Active: "●", status.Error: "✗"}[s.State]
	if mark == "" {
		mark = "○"
	}
	fmt.Fprintf(&b, "%s %s: %s\n", mark, text.Line(string(s.State)), text.Line(s.Sentence()))
	if s.State == status.Active {
		to := "127.0.0.1:PORT"
		if s.Path == status.PathDirect {
			to = "container, or 127.0.0.1:PORT"
		}
		fmt.Fprintf(&b, `
  Windows              Linux
  localhost:PORT ──▶ %s ──▶ WSLPREROUTING ──▶ %s
                                  (before the engines' own rules)
`, text.Line(s.Interface.Name), to)
	}
	fmt.Fprintln(&b)
	t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	if s.Interface.Present {
		row("interface", "%s, index %d", text.Line(s.Interface.Name), s.Interface.Index)
	} else {
		row("interface", "%s, not there", text.Line(s.Interface.Name))
	}
	if s.Mode != "" {
		row("mode", "%s", text.Line(netwatch.Mode(s.Mode).String()))
	}
	if s.Table.Installed {
		row("table", "%s %s, installed", text.Line(s.Table.Family), text.Line(s.Table.Name))
		if len(s.Directions) == 0 { // of a daemon that is older
			row("counted", "%d new connections, %s in their first packets", s.Rule.Packets, bytesText(s.Rule.Bytes))
		}
		row("path", "%s", text.Line(s.Path))
	}
	if !s.Since.IsZero() {
		row("since", "%s (%s)", s.Since.Local().Format("2006-01-02 15:04:05"), ago(time.Since(s.Since)))
	}
	row("version", "%s", text.Line(s.Version))
	t.Flush()
	printDirections(&b, s)
	printPorts(&b, s.Ports)
	if a := advice(s, here); a != "" {
		fmt.Fprintf(&b, "\n%s", a)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// printDirections lists who is helped to reach whom.
func printDirections(b *bytes.Buffer, s status.Snapshot) {
	if !s.Table.Installed || len(s.Directions) == 0 {
		return
	}
	names := map[string]string{
		status.FromWindows: "from Windows", status.FromLinux: "from Linux", status.ClosedPorts: "closed ports",
		status.OwnAddress: "own address", status.ContainersToWindows: "containers to Windows",
	}
	fmt.Fprintln(b)
	t := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "  DIRECTION\tSTATE\tCOUNTED\n")
	for _, d := range s.Directions {
		state, counted := "off", ""
		if d.Active {
			state, counted = "on", plural(d.Packets, "connection")
			if d.Name == status.ClosedPorts {
				counted = fmt.Sprintf("%d refused", d.Packets)
			}
		}
		if len(d.Ports) > 0 {
			state += ": " + strings.Join(d.Ports, ", ")
		}
		if d.Reason != "" {
			state += " (" + d.Reason + ")"
		}
		name, ok := names[d.Name]
		if !ok {
			name = d.Name // of a daemon that is younger
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\n", text.Line(name), text.Line(state), counted)
	}
	t.Flush()
}

// plural is n and what there is n of.
func plural(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// printPorts lists the published ports and the way to each.
func printPorts(b *bytes.Buffer, ports []status.Port) {
	if len(ports) == 0 {
		return
	}
	ways := map[string]string{
		status.PathDirect: "direct: by WSLPREROUTING to the container",
		status.PathProxy:  "proxy: by WSLPREROUTING to the engine's proxy",
		status.PathKernel: "kernel: left to the engine's own rules",
	}
	fmt.Fprintln(b)
	t := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "  PORT\tON\tTO\tENGINE\tPATH\n")
	for _, p := range ports {
		way, ok := ways[p.Path]
		if !ok {
			way = p.Path
		}
		if p.Reason != "" {
			way = p.Path + ": " + p.Reason
		}
		fmt.Fprintf(t, "  %d/%s\t%s\t%s\t%s\t%s\n", p.Port, text.Line(p.Proto), text.Line(p.Address), text.Line(p.Target), text.Line(p.Engine), text.Line(way))
	}
	t.Flush()
}

// writeJSON prints v for programs, and for people who look at what they get.
func writeJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false) // commands have < and >
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
