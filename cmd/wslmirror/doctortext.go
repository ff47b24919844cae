package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/text"
)

// verdicts is how a verdict is shown.
var verdicts = map[doctor.Verdict]mark{
	doctor.Fault:   markFault,
	doctor.Warning: markWarning,
	doctor.Unknown: markUnknown,
	doctor.OK:      markOK,
}

func verdict(on screen, v doctor.Verdict) string { return on.mark(verdicts[v], string(v)) }

// printReport prints a diagnosis for people: first the faults and warnings with their
// fixes, and other advice; then the rest, a line each; then the summary.
func printReport(w io.Writer, on screen, r doctor.Report) error {
	var b bytes.Buffer
	var rest [][]string
	var idle []string
	for _, c := range r.Checks { // the gravest first
		if c.Name == "wsl" && c.Verdict == doctor.NotApplicable {
			seen := text.Line(c.Seen)
			fmt.Fprintf(&b, "%s\n\n", on.fold(strings.ToUpper(seen[:1])+seen[1:]+": the checks of what WSL sets up do not apply.", "", 0))
		}
	}
	for _, c := range r.Checks {
		switch c.Verdict {
		case doctor.Fault, doctor.Warning:
			printFinding(&b, on, c)
		case doctor.NotApplicable:
			idle = append(idle, c.Name)
		default:
			if c.Do != "" || c.Why != "" {
				printFinding(&b, on, c)
			} else {
				rest = append(rest, []string{verdict(on, c.Verdict), c.Name, text.Line(c.Seen)})
			}
		}
	}
	on.table(&b, "", rest)
	if len(idle) > 0 {
		fmt.Fprintf(&b, "%s\n", on.fold("Not applicable here: "+strings.Join(idle, ", "), "", 2))
	}
	sum := summary(r.Summary)
	if r.Summary.Unknown > 0 && !r.Seen.Root {
		sum += " (sudo shows more)"
	}
	fmt.Fprintf(&b, "\n%s\n", on.fold(sum, "", 2))
	if r.Summary.Faults+r.Summary.Warnings > 0 {
		fmt.Fprintln(&b, "More on each check: "+checksPage)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// printFinding prints a check that needs more than one line: a fault, a warning,
// or a check with advice.
func printFinding(b *bytes.Buffer, on screen, c doctor.Check) {
	const indent = "    "
	fmt.Fprintf(b, "%s\n", on.fold(fmt.Sprintf("%s %s: %s", verdict(on, c.Verdict), c.Name, text.Line(c.Seen)), "", 2))
	if c.Why != "" {
		fmt.Fprintf(b, "%s\n", on.fold(text.Line(c.Why), indent, 0))
	}
	for line := range strings.Lines(c.Do) {
		// Commands are not folded: people copy them.
		fmt.Fprintf(b, "%s%s%s\n", indent, indent, text.Line(strings.TrimSuffix(line, "\n")))
	}
	if c.Link != "" {
		fmt.Fprintf(b, "%s%s\n", indent, c.Link)
	}
	b.WriteString("\n")
}

// checksPage has a heading for each check.
const checksPage = "https://github.com/wslmirror/wslmirror/blob/main/docs/doctor.md"

// summary is the summary in one line.
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
	count(s.Unknown, "unknown", "unknown")
	count(s.OK, "ok", "ok")
	line := strings.Join(parts, ", ")
	if s.Faults == 0 {
		line = strings.TrimSuffix("No fault found: "+line, ": ")
	}
	return line
}
