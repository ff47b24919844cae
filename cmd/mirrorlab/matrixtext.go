package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
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
	t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprint(t, "\t")
	for _, c := range matrixColumns {
		fmt.Fprintf(t, "\twith %s:\t", c)
	}
	fmt.Fprint(t, "\nengine\tpublished on")
	for range matrixColumns {
		fmt.Fprint(t, "\tWindows\tLinux")
	}
	fmt.Fprintln(t, "\tpath")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s", r.engine, r.address)
		for _, c := range r.got {
			windows, linux := c.marks()
			fmt.Fprintf(t, "\t%s\t%s", windows, linux)
		}
		fmt.Fprintf(t, "\t%s\n", r.path)
	}
	t.Flush()
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return "Who answers to a client on 127.0.0.1? (TCP, UDP)\n\n" + strings.Join(lines, "\n")
}

// markdownMatrix is the matrix for the README.
func markdownMatrix(rows []matrixRow) string {
	var b strings.Builder
	b.WriteString("| engine | published on ")
	for _, c := range matrixColumns {
		fmt.Fprintf(&b, "| with %s: Windows | Linux ", c)
	}
	b.WriteString("| path |\n|---|---" + strings.Repeat("|:-:|:-:", len(matrixColumns)) + "|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s ", r.engine, r.address)
		for _, c := range r.got {
			windows, linux := c.marks()
			fmt.Fprintf(&b, "| %s | %s ", windows, linux)
		}
		fmt.Fprintf(&b, "| %s |\n", r.path)
	}
	return b.String()
}
