package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/text"
)

// A look is how a verdict is shown.
type look struct{ mark, colour string }

var looks = map[doctor.Verdict]look{
	doctor.Fault:   {"✗", "\x1b[31m"},
	doctor.Warning: {"!", "\x1b[33m"},
	doctor.Unknown: {"?", "\x1b[36m"},
	doctor.OK:      {"✓", "\x1b[32m"},
}

// print is the mark, in its colour.
func (l look) print(colour bool) string {
	if colour {
		return l.colour + l.mark + "\x1b[m"
	}
	return l.mark
}

// colourful reports whether w is a terminal whose user wants colours
// (https://no-color.org).
func colourful(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// printReport prints a diagnosis for people: what is wrong, with what to do about
// it, and other advice; then the rest, a line each; then the sum.
func printReport(w io.Writer, r doctor.Report, colour bool) error {
	var b bytes.Buffer
	var rest []doctor.Check
	var idle []string
	for _, c := range r.Checks { // the gravest first
		switch c.Verdict {
		case doctor.Fault, doctor.Warning:
			printFinding(&b, c, colour)
		case doctor.NotApplicable:
			idle = append(idle, c.Name)
		default:
			if c.Do != "" || c.Why != "" {
				printFinding(&b, c, colour)
			} else {
				rest = append(rest, c)
			}
		}
	}
	t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, c := range rest {
		// Marks are of one width, and so are their colours to tabwriter.
		fmt.Fprintf(t, "%s %s\t%s\n", looks[c.Verdict].print(colour), c.Name, text.Line(c.Seen))
	}
	t.Flush()
	if len(idle) > 0 {
		fmt.Fprintf(&b, "%s\n", fold("Not applicable here: "+strings.Join(idle, ", "), "", 2))
	}
	fmt.Fprintf(&b, "\n%s", summary(r.Summary))
	if r.Summary.Unknown > 0 && !r.Seen.Root {
		b.WriteString(": with sudo it sees more")
	}
	b.WriteString("\n")
	_, err := w.Write(b.Bytes())
	return err
}

// printFinding prints what there is more to say of than a line: a fault, a warning,
// or what comes with advice.
func printFinding(b *bytes.Buffer, c doctor.Check, colour bool) {
	const indent = "    "
	fmt.Fprintf(b, "%s %s\n", looks[c.Verdict].print(colour), fold(c.Name+": "+text.Line(c.Seen), "", 2))
	if c.Why != "" {
		fmt.Fprintf(b, "%s\n", fold(text.Line(c.Why), indent, 0))
	}
	for line := range strings.Lines(c.Do) {
		// Commands are not folded: they are there to be copied.
		fmt.Fprintf(b, "%s%s%s\n", indent, indent, text.Line(strings.TrimSuffix(line, "\n")))
	}
	if c.Link != "" {
		fmt.Fprintf(b, "%s%s\n", indent, c.Link)
	}
	b.WriteString("\n")
}

// summary is the sum in one line.
func summary(s doctor.Summary) string {
	var parts []string
	count := func(n int, one, many string) {
		if n == 1 {
			parts = append(parts, "1 "+one)
		} else if n > 1 {
			parts = append(parts, fmt.Sprintf("%d %s", n, many))
		}
	}
	count(s.Faults, "fault", "faults")
	count(s.Warnings, "warning", "warnings")
	count(s.Unknown, "not seen", "not seen")
	count(s.OK, "as it should be", "as it should be")
	line := strings.Join(parts, ", ")
	if s.Faults == 0 {
		line = strings.TrimSuffix("No fault found: "+line, ": ")
	}
	return line
}

// fold breaks a text into lines that fit a terminal, each with indent and all
// but the first with more spaces in front.
func fold(text, indent string, more int) string {
	const width = 96
	var b strings.Builder
	b.WriteString(indent)
	at := len(indent)
	for i, word := range strings.Fields(text) {
		n := len([]rune(word))
		switch {
		case i == 0:
		case at+1+n > width:
			b.WriteString("\n" + indent + strings.Repeat(" ", more))
			at = len(indent) + more
		default:
			b.WriteString(" ")
			at++
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}
