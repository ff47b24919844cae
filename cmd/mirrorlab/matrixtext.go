package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// marks are those of a column; those of the blanket rule are empty where it was not
// tried.
func (r matrixRow) marks(column int) (windows, linux string) {
	if column == blanketColumn && r.mode != lab.Mirrored {
		return "", ""
	}
	c := r.got[column]
	mark := func(tcp, udp bool) string { return tick(tcp) + " " + tick(udp) }
	return mark(c.windows.tcp, c.windows.udp), mark(c.linux.tcp, c.linux.udp)
}

// renderMatrix is the matrix as text.
func renderMatrix(rows []matrixRow) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprint(t, "\t\t")
	for _, c := range matrixColumns {
		fmt.Fprintf(t, "\twith %s:\t", c)
	}
	fmt.Fprint(t, "\nmode\tengine\tpublished on")
	for range matrixColumns {
		fmt.Fprint(t, "\tWindows\tLinux")
	}
	fmt.Fprintln(t, "\tpath")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s", r.mode, r.engine, r.address)
		for column := range r.got {
			windows, linux := r.marks(column)
			fmt.Fprintf(t, "\t%s\t%s", windows, linux)
		}
		fmt.Fprintf(t, "\t%s\n", r.path)
	}
	t.Flush()
	return "Who answers to a client on 127.0.0.1? (TCP, UDP)\n\n" + trimmed(b.String())
}

// markdownMatrix is the whole matrix for the docs.
func markdownMatrix(rows []matrixRow) string {
	var b strings.Builder
	b.WriteString("| mode | engine | published on ")
	for _, c := range matrixColumns {
		fmt.Fprintf(&b, "| with %s: Windows | Linux ", c)
	}
	b.WriteString("| path |\n|---|---|---" + strings.Repeat("|:-:|:-:", len(matrixColumns)) + "|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s ", r.mode, r.engine, r.address)
		for column := range r.got {
			windows, linux := r.marks(column)
			fmt.Fprintf(&b, "| %s | %s ", windows, linux)
		}
		fmt.Fprintf(&b, "| %s |\n", r.path)
	}
	return b.String()
}

// shortMatrix is the matrix of docs/engines.md: for each engine and mode, who is answered
// without wslmirror and with it.
func shortMatrix(rows []matrixRow) string {
	var b strings.Builder
	b.WriteString("| engine | mode | without wslmirror: Windows | Linux | with it: Windows | Linux |\n|---|---|:-:|:-:|:-:|:-:|\n")
	var lines []string
	seen := map[string][]string{} // modes of an engine, by what is the same in them
	cells := map[string][]matrixRow{}
	for _, r := range rows {
		key := fmt.Sprintf("%s|%s", r.engine, r.mode)
		cells[key] = append(cells[key], r)
	}
	for _, r := range rows {
		of := cells[fmt.Sprintf("%s|%s", r.engine, r.mode)]
		if of[0].address != r.address {
			continue
		}
		line := fmt.Sprintf("| %s | MODES", r.engine)
		for _, columns := range [][]int{{0}, {withPathProxy, withPathDirect}} {
			line += " | " + inShort(of, columns, func(c matrixCell) bool { return c.windows.tcp && c.windows.udp }) +
				" | " + inShort(of, columns, func(c matrixCell) bool { return c.linux.tcp && c.linux.udp })
		}
		if seen[line] == nil {
			lines = append(lines, line)
		}
		seen[line] = append(seen[line], r.mode.String())
	}
	slices.SortStableFunc(lines, func(a, b string) int {
		return strings.Compare(strings.Split(a, "|")[1], strings.Split(b, "|")[1])
	})
	for _, line := range lines {
		modes := strings.Join(seen[line], ", ")
		if len(seen[line]) == len(lab.Modes) {
			modes = "all"
		}
		b.WriteString(strings.Replace(line, "MODES", modes, 1) + " |\n")
	}
	return b.String()
}

// inShort is what some columns of an engine have in common.
func inShort(rows []matrixRow, columns []int, ok func(matrixCell) bool) string {
	var good, bad []string
	for _, r := range rows {
		all := true
		for _, c := range columns {
			all = all && ok(r.got[c])
		}
		if all {
			good = append(good, r.address)
		} else {
			bad = append(bad, r.address)
		}
	}
	switch {
	case len(bad) == 0:
		return tick(true)
	case len(good) == 0:
		return tick(false)
	}
	return tick(false) + " " + strings.Join(bad, ", ")
}
