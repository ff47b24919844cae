package main

import (
	"bytes"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/internal/windows"
)

func (f portFacts) printBlock(b *bytes.Buffer) {
	fmt.Fprintln(b, "\nSource ports of Linux's own connections")
	t := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	k := f.block
	size := fmt.Sprintf("%d-%d, %d ports", k.First, k.Last, k.Size())
	if n := reservedPorts(k); n > 0 {
		size += fmt.Sprintf(", %d of them reserved and never chosen", n)
	}
	row("block", "%s", size)
	switch {
	case !f.mirrored: // nothing is reserved
	case k.Windows == (ports.Range{}) && (k.Containers || f.daemon.State == status.Active):
		row("in Windows", "not known: WSL's own nftables rule is gone, which keeps containers to the block; 'wsl --shutdown' brings it back")
	case k.Windows == (ports.Range{}):
		row("in Windows", "not known: wslmirror is not running, and only root may look")
	case k.Widened():
		row("in Windows", "%d-%d is reserved: the block was widened", k.Windows.First, k.Windows.Last)
	default:
		row("in Windows", "%d-%d is reserved: the block lies in it", k.Windows.First, k.Windows.Last)
	}
	who := "containers' included"
	if !k.Containers {
		who = "without those of containers"
		if k.Unseen != nil {
			who += fmt.Sprintf(": %v", k.Unseen)
		}
	}
	row("in use", "tcp %d, udp %d, %s", k.TCP, k.UDP, who)
	if w := k.Worst; w.Used > 0 {
		row("fullest", "%d of %d %s (%s)", w.Used, w.Of, towards(w), percent(w.Share()))
	}
	headroom := fmt.Sprintf("%d to each new destination", k.Usable)
	if w := k.Worst; w.Proto == "tcp" {
		headroom = fmt.Sprintf("%d more to the fullest destination, %d of them found quickly; %d to a new one",
			max(0, w.Of-w.Used), k.FirstPassLeft(), k.Usable)
	}
	row("headroom", "%s", headroom)
	t.Flush()
}

func percent(share float64) string {
	if share < 0.01 {
		return "under 1 %"
	}
	return fmt.Sprintf("%.0f %%", 100*share)
}

func reservedPorts(b ports.Block) (n int) {
	for port := int(b.First); port <= int(b.Last); port++ {
		if b.IsReserved(uint16(port)) {
			n++
		}
	}
	return n
}

func (f portFacts) printWindows(b *bytes.Buffer) {
	fmt.Fprintln(b, "\nPorts in Windows")
	t := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	// list prints what is known for each protocol, the name once.
	var starred bool
	list := func(name string, items func(windows.Ports) ([]string, error)) {
		for _, proto := range []string{"tcp", "udp"} {
			words, err := items(f.windows[proto])
			if err != nil {
				continue // said below
			}
			for i, line := range wrap(words) {
				if i > 0 {
					proto = ""
				}
				fmt.Fprintf(t, "  %s\t%s\t%s\n", name, proto, line)
				name = ""
			}
		}
	}
	list("excluded", func(p windows.Ports) (words []string, err error) {
		for _, r := range p.Excluded {
			word := spanText(r.First, r.Last)
			if r.Administered {
				word += "*"
				starred = true
			}
			words = append(words, word)
		}
		return words, p.ExcludedErr
	})
	list("dynamic", func(p windows.Ports) ([]string, error) {
		return []string{spanText(p.Dynamic.First, p.Dynamic.Last)}, p.DynamicErr
	})
	list("listens on", func(p windows.Ports) (words []string, err error) {
		for i, l := range p.Listeners {
			if i == 0 || l.Addr.Port() != p.Listeners[i-1].Addr.Port() {
				words = append(words, fmt.Sprint(l.Addr.Port()))
			}
		}
		return words, p.ListenersErr
	})
	t.Flush()
	if starred {
		fmt.Fprintln(b, "  *: added by an administrator, may be bound; the others belong to a Windows program")
	}
	for _, line := range f.problems() {
		fmt.Fprintf(b, "  %s\n", text.Line(line))
	}
}

func spanText(first, last uint16) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

// How long a list people are shown.
const (
	mostColumns = 70
	mostLines   = 4
)

// wrap makes lines of words, and a few words of what is too much.
func wrap(words []string) (lines []string) {
	if len(words) == 0 {
		return []string{"none"}
	}
	var line strings.Builder
	for i, word := range words {
		if line.Len() > 0 && line.Len()+len(word)+2 > mostColumns {
			lines = append(lines, line.String())
			line.Reset()
			if len(lines) == mostLines {
				return append(lines, fmt.Sprintf("… and %d more: see 'wslmirror ports --json'", len(words)-i))
			}
		}
		line.WriteString(word)
		if i < len(words)-1 {
			line.WriteString(", ")
		}
	}
	return append(lines, line.String())
}

// verdictText is an explanation for people.
func verdictText(v ports.Verdict) string {
	var b bytes.Buffer
	mark := "✗"
	if v.State == ports.Free {
		mark = "✓"
	}
	fmt.Fprintf(&b, "%s %d/%s is %s\n", mark, v.Port, v.Proto, v.State)
	for _, r := range v.Reasons {
		fmt.Fprintf(&b, "  %s\n", text.Line(r))
	}
	for _, n := range v.Notes {
		fmt.Fprintf(&b, "  note: %s\n", text.Line(n))
	}
	for _, c := range []struct {
		where string
		lines []string
	}{
		{"In a shell here", v.Linux},
		{"In Windows, in an administrator's console", v.Windows},
	} {
		if len(c.lines) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n  %s:\n", c.where)
		for _, line := range c.lines {
			fmt.Fprintf(&b, "      %s\n", text.Line(line))
		}
	}
	if v.State != ports.Free && v.Next != 0 {
		fmt.Fprintf(&b, "\n  The next free port is %d.\n", v.Next)
	}
	return b.String()
}
