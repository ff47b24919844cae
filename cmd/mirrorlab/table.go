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
	answers  = "answers"
	noAnswer = "no answer"
)

// A row is one way from a client to a server, and what was met on it each time.
type row struct {
	client, server string
	port           string // as Docker writes it, for example "8080/tcp"
	want, got      [3]string
}

var (
	always       = [3]string{answers, answers, answers}
	onlyRepaired = [3]string{without: noAnswer, with: answers, after: noAnswer}
)

// wrong says of each cell that is not as it should be what it is.
func wrong(rows []row) []string {
	var cells []string
	for _, r := range rows {
		for i, column := range columns {
			if r.got[i] != r.want[i] {
				cells = append(cells, fmt.Sprintf("%s → %s %s, %s %s: %s, and it should be: %s",
					r.client, r.server, r.port, column.first, column.second, cell(r.got[i]), cell(r.want[i])))
			}
		}
	}
	return cells
}

func cell(outcome string) string {
	if outcome == answers {
		return "✓ " + outcome
	}
	return "✗ " + outcome
}

const drawing = `
A packet from Windows to 127.0.0.1:8080, in Linux:

  without  loopback0 ─▶ Docker's DNAT ─▶ container, which answers to itself
  with     loopback0 ─▶ WSLPREROUTING ─▶ docker-proxy ─▶ container, and back
                        (wslmirror's)
`

const verdict = `
wslmirror works: Windows reaches the container, and all else is as it was.
`

// render is the result of the demo as text.
func render(rows []row, colour bool) string {
	var b strings.Builder
	const label, width = "  %-7s → %-14s  %8s   ", "%-14s"
	line := func(format string, args ...any) {
		b.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " "))
		b.WriteByte('\n')
	}
	indent := strings.Repeat(" ", len([]rune(fmt.Sprintf(label, "", "", ""))))
	line("%s"+width+width+width, "Who answers on 127.0.0.1?"+indent[len("Who answers on 127.0.0.1?"):],
		columns[without].first, columns[with].first, columns[after].first)
	line("%s"+width+width+width, indent, columns[without].second, columns[with].second, columns[after].second)
	for _, r := range rows {
		cells := make([]any, len(r.got))
		for i, outcome := range r.got {
			text := cell(outcome)
			padded := fmt.Sprintf(width, text)
			if colour {
				code := "\x1b[31m" // red
				if outcome == answers {
					code = "\x1b[32m" // green
				}
				padded = code + text + "\x1b[0m" + padded[len(text):]
			}
			cells[i] = padded
		}
		line(label+"%s%s%s", append([]any{r.client, r.server, r.port}, cells...)...)
	}
	b.WriteString(drawing)
	if len(wrong(rows)) == 0 {
		b.WriteString(verdict)
	}
	return b.String()
}
