package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/internal/windows"
)

func (f portFacts) printBlock(b *bytes.Buffer, on screen) {
	fmt.Fprintln(b, "\nSource ports of Linux's own connections")
	var rows [][]string
	row := func(name, format string, args ...any) {
		rows = append(rows, []string{name, fmt.Sprintf(format, args...)})
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
		row("in Windows", "unknown: WSL's nftables rule that keeps containers in the block is gone; 'wsl --shutdown' restores it")
	case k.Windows == (ports.Range{}):
		row("in Windows", "unknown: wslmirror is not running, and only root can read the rules")
	case k.Widened():
		row("in Windows", "%d-%d is reserved; the block is larger than that", k.Windows.First, k.Windows.Last)
	default:
		row("in Windows", "%d-%d is reserved, and contains the block", k.Windows.First, k.Windows.Last)
	}
	who := "including containers"
	if !k.Containers {
		who = "not counting containers"
		if k.Unseen != nil {
			who += fmt.Sprintf(": %v", k.Unseen)
		}
	}
	row("in use", "tcp %d, udp %d, %s", k.TCP, k.UDP, who)
	if w := k.Worst; w.Used > 0 {
		row("fullest", "%d of %d %s (%s)", w.Used, w.Of, towards(w), percent(w.Share()))
	}
	headroom := fmt.Sprintf("%d for each new destination", k.Usable)
	if w := k.Worst; w.Proto == "tcp" {
		headroom = fmt.Sprintf("%d left for the fullest destination, %d of them found quickly; %d for a new one",
			max(0, w.Of-w.Used), k.FirstPassLeft(), k.Usable)
	}
	row("headroom", "%s", headroom)
	on.table(b, "  ", rows)
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

func (f portFacts) printWindows(b *bytes.Buffer, on screen) {
	fmt.Fprintln(b, "\nPorts in Windows")
	var rows [][]string
	// list adds the items of each protocol, with the name once.
	var starred bool
	list := func(name string, items func(windows.Ports) ([]string, error)) {
		for _, proto := range []string{"tcp", "udp"} {
			words, err := items(f.windows[proto])
			if err != nil {
				continue // said below
			}
			rows = append(rows, []string{name, proto, on.show(enumerate(words))})
			name = ""
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
	on.table(b, "  ", rows)
	if starred {
		fmt.Fprintln(b, on.fold("*: excluded by an administrator, can be bound; Windows programs have reserved the others", "  ", 0))
	}
	for _, line := range f.problems() {
		fmt.Fprintln(b, on.fold(text.Line(line), "  ", 0))
	}
}

func spanText(first, last uint16) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

// longestList is how much of a list people see, in bytes.
const longestList = 280

// enumerate is a list for people, shortened if it is too long.
func enumerate(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	n := 0
	for i, word := range words {
		if n += len(word) + 2; n > longestList {
			return strings.Join(words[:i], ", ") + fmt.Sprintf(", … and %d more: see 'wslmirror ports --json'", len(words)-i)
		}
	}
	return strings.Join(words, ", ")
}

// verdictText is an explanation for people.
func verdictText(on screen, v ports.Verdict) string {
	var b bytes.Buffer
	m, says := markFault, "is "+string(v.State)
	reasons := v.Reasons
	switch {
	case v.State == ports.Free:
		m = markOK
	case v.State == ports.Unknown:
		m, says = markUnknown, "is unknown: nothing in Linux uses it, but Windows may"
	case v.InUse:
		m, says, reasons = markOn, "is in use: "+text.Line(reasons[0]), reasons[1:]
	}
	fmt.Fprintln(&b, on.fold(fmt.Sprintf("%s %d/%s %s", on.mark(m, ""), v.Port, v.Proto, says), "", 2))
	for _, r := range reasons {
		fmt.Fprintln(&b, on.fold(text.Line(r), "  ", 0))
	}
	for _, n := range v.Notes {
		fmt.Fprintln(&b, on.fold("note: "+text.Line(n), "  ", 2))
	}
	for _, c := range []struct {
		where string
		lines []string
	}{
		{"In Linux", v.Linux},
		{"In Windows, as administrator", v.Windows},
	} {
		if len(c.lines) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n  %s:\n", c.where)
		for _, line := range c.lines {
			fmt.Fprintf(&b, "      %s\n", text.Line(line))
		}
	}
	switch {
	case v.Next == 0 || v.State == ports.Free:
	case !v.Asked:
		fmt.Fprintf(&b, "\n  The next port that nothing in Linux uses is %d.\n", v.Next)
	default:
		fmt.Fprintf(&b, "\n  The next free port is %d.\n", v.Next)
	}
	return b.String()
}

// text is one port per line, as scripts want it. It says where Windows could not be asked.
func (f freeJSON) text(on screen) string {
	var b bytes.Buffer
	for _, port := range f.Ports {
		if f.State == ports.Unknown {
			fmt.Fprintf(&b, "%s %d\n", on.mark(markUnknown, ""), port)
		} else {
			fmt.Fprintln(&b, port)
		}
	}
	if f.State == ports.Unknown {
		for _, note := range f.Notes {
			fmt.Fprintln(&b, on.fold(text.Line(note), "  ", 0))
		}
	}
	return b.String()
}
