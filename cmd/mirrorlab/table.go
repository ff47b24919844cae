package main

import (
	"fmt"
	"strings"
)

// The demo asks three times.
const (
	without = iota
	with
	after
)

var columns = [3]struct{ first, second string }{
	without: {"without", "wslmirror"},
	with:    {"with", "wslmirror"},
	after:   {"after it", "stopped"},
}

// What a client can meet. Any other string says what it was instead.
const (
	answers     = "answers"
	noAnswer    = "no answer"
	reset       = "reset"
	refused     = "refused"
	refusedLate = "refused, 1 s" // after a second
)

// A row is one way from a client to a server, and what was met on it each time.
type row struct {
	client, server string
	port           string // as Docker writes it, for example "8080/tcp"
	want, got      [3]string
	leftOut        bool // by wslmirror, for want of something in the kernel
}

// always is what wslmirror leaves as it is, repaired what it changes while it runs.
func always(outcome string) [3]string { return [3]string{outcome, outcome, outcome} }

func repaired(broken, good string) [3]string {
	return [3]string{without: broken, with: good, after: broken}
}

// wrong says of each cell that is not as it should be what it is.
func wrong(rows []row) []string {
	var cells []string
	for _, r := range rows {
		for i, column := range columns {
			if r.got[i] != r.want[i] {
				cells = append(cells, fmt.Sprintf("%s → %s %s, %s %s: %s, and it should be: %s",
					r.client, r.server, r.port, column.first, column.second, r.cell(r.got[i]), r.cell(r.want[i])))
			}
		}
	}
	return cells
}

// good reports whether an outcome is what a client may hope for.
func (r row) good(outcome string) bool { return outcome == r.want[with] && !r.leftOut }

func (r row) cell(outcome string) string {
	if r.good(outcome) {
		return "✓ " + outcome
	}
	return "✗ " + outcome
}

const drawing = `
A packet from Windows to 127.0.0.1:8080, in Linux:

  without  loopback0 ─▶ Docker's DNAT ─▶ container, which replies to itself
  with     loopback0 ─▶ WSLPREROUTING ─▶ docker-proxy ─▶ container, and back
                        (wslmirror's)
`

const verdict = `
wslmirror works: with it nothing hangs, and after it all is as it was before.
`

// render is the result of the demo as text, with a note of what wslmirror leaves out.
func render(rows []row, note string, colour bool) string {
	var b strings.Builder
	const label, width = "  %-9s → %-11s  %8s  ", "%-15s"
	line := func(format string, args ...any) {
		b.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " "))
		b.WriteByte('\n')
	}
	indent := strings.Repeat(" ", len([]rune(fmt.Sprintf(label, "", "", ""))))
	const title = "Who answers on localhost?"
	line("%s"+width+width+width, title+indent[len(title):],
		columns[without].first, columns[with].first, columns[after].first)
	line("%s"+width+width+width, indent, columns[without].second, columns[with].second, columns[after].second)
	for _, r := range rows {
		cells := make([]any, len(r.got))
		for i, outcome := range r.got {
			text := r.cell(outcome)
			padded := fmt.Sprintf(width, text)
			if colour {
				code := "\x1b[31m" // red
				if r.good(outcome) {
					code = "\x1b[32m" // green
				}
				padded = code + text + "\x1b[0m" + padded[len(text):]
			}
			cells[i] = padded
		}
		line(label+"%s%s%s", append([]any{r.client, r.server, r.port}, cells...)...)
	}
	b.WriteString(drawing)
	switch {
	case note != "":
		b.WriteString("\n" + note)
	case len(wrong(rows)) == 0:
		b.WriteString(verdict)
	}
	return b.String()
}
