package main

import (
	"fmt"
	"strings"
)

func (c matrixCell) marks() (windows, linux string) {
	mark := func(tcp, udp bool) string { return tick(tcp) + " " + tick(udp) }
	return mark(c.windows.tcp, c.windows.udp), mark(c.linux.tcp, c.linux.udp)
}

func tick(ok bool) string {
	if ok {
		return "✓"
	}
	return "✗"
}

// renderMatrix is the matrix as text.
func renderMatrix(rows []matrixRow) string {
	var b strings.Builder
	const label = "%-37s %-10s"
	fmt.Fprintf(&b, label, "Who is answered (TCP UDP)", "published")
	for _, c := range matrixColumns {
		fmt.Fprintf(&b, "  %-17s", "with "+c)
	}
	fmt.Fprintf(&b, "\n"+label, "", "on")
	for range matrixColumns {
		fmt.Fprintf(&b, "  %-8s %-8s", "Windows", "Linux")
	}
	b.WriteByte('\n')
	for _, r := range rows {
		fmt.Fprintf(&b, label, r.engine, r.address)
		for _, c := range r.got {
			windows, linux := c.marks()
			fmt.Fprintf(&b, "  %-8s %-8s", windows, linux)
		}
		b.WriteByte('\n')
	}
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// markdownMatrix is the matrix for the README.
func markdownMatrix(rows []matrixRow) string {
	var b strings.Builder
	b.WriteString("| engine | published on ")
	for _, c := range matrixColumns {
		fmt.Fprintf(&b, "| with %s: Windows | Linux ", c)
	}
	b.WriteString("|\n|---|---" + strings.Repeat("|:-:|:-:", len(matrixColumns)) + "|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s ", r.engine, r.address)
		for _, c := range r.got {
			windows, linux := c.marks()
			fmt.Fprintf(&b, "| %s | %s ", windows, linux)
		}
		b.WriteString("|\n")
	}
	return b.String()
}
