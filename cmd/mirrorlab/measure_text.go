package main

import (
	"fmt"
	"math"
	"strings"
	"text/tabwriter"
)

// A benchTable is a table of the report, as text or as Markdown.
type benchTable struct {
	head []string
	rows [][]string
}

// explanation says what the variants are.
const explanation = `docker-proxy is wslmirror's --path proxy, direct its --path direct. The kernel's limit is the same container
without loopback: from the LAN by WSL's LAN address, a LAN that costs the bench as much as its Windows (in the rows of
Windows), and by the bridge's address (Linux). No container is the same program as a server of Linux. Medians of all rounds,
and their range. With a goal, ✓ says that the median reaches it, ✗ that it does not, and ≈ that it does not but that the
rounds differ too much to tell (95 %).
`

// tables are the report's two tables: values and ratios.
func (r *report) tables() []benchTable {
	values := benchTable{head: []string{"", "from"}}
	for _, v := range allVariants[:4] {
		values.head = append(values.head, v.Title)
	}
	ratios := benchTable{head: []string{"ratios, round by round", "from", "direct : docker-proxy", "direct : kernel's limit", "server with : without wslmirror"}}
	seen := map[[2]string]bool{}
	for _, s := range r.Series {
		key := [2]string{s.Key, s.Client}
		if seen[key] {
			continue
		}
		seen[key] = true
		title := s.Title
		if s.Unit != "" {
			title += ", " + s.Unit
		}
		row := []string{title, s.Client}
		for _, v := range allVariants[:4] {
			cell := "–"
			if x := r.find(s.quantity, s.Client, v); x != nil {
				format := number
				if s.Unit == "" {
					format = count
				}
				cell = x.summary.format(format)
			}
			row = append(row, cell)
		}
		values.rows = append(values.rows, row)
		if s.Unit == "" {
			continue
		}
		row = []string{s.Title, s.Client}
		for _, c := range comparisons[:3] {
			cell := "–"
			if x := r.ratio(s.quantity, s.Client, c.of, c.to); x != nil {
				cell = x.format()
			}
			row = append(row, cell)
		}
		ratios.rows = append(ratios.rows, row)
	}
	return []benchTable{values, ratios}
}

// format is for example "2.31 (2.2–2.4) ✓ ≥ 1.9".
func (x *ratio) format() string {
	text := x.summary.format(func(v float64) string { return fmt.Sprintf("%.2f", v) })
	if x.Goal == nil {
		return text
	}
	sign := "≥"
	if x.LessIsBetter {
		sign = "≤"
	}
	return fmt.Sprintf("%s %s %s %g", text, x.mark(), sign, *x.Goal)
}

func (s summary) format(number func(float64) string) string {
	if s.Min == s.Max {
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Min), number(s.Max))
}

// number writes three digits that count, and thousands apart.
func number(v float64) string {
	if v > 0 && v < 100 {
		return fmt.Sprintf("%.*f", min(2-int(math.Floor(math.Log10(v))), 3), v)
	}
	if v >= 1000 {
		unit := math.Pow(10, math.Floor(math.Log10(v))-2)
		v = math.Round(v/unit) * unit
	}
	return count(v)
}

// count writes all digits of a whole number, thousands apart.
func count(v float64) string {
	text := fmt.Sprintf("%.0f", v)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// conditions says how it was measured.
func (r *report) conditions() string {
	return fmt.Sprintf("%d rounds in turn, %d s for each number, %d connections (or datagrams) at once, wrk with 1 thread; "+
		"other programs took %.0f %% of the machine meanwhile (%.0f–%.0f)",
		r.Rounds, r.Seconds, connections, 100*r.Others.Median, 100*r.Others.Min, 100*r.Others.Max)
}

// text is the report for a terminal.
func (r *report) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n%s\n\n%s", r.Command, r.Machine, r.conditions(), explanation)
	for _, t := range r.tables() {
		var aligned strings.Builder
		w := tabwriter.NewWriter(&aligned, 0, 0, 3, ' ', 0)
		for _, row := range append([][]string{t.head}, t.rows...) {
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
		w.Flush()
		b.WriteByte('\n')
		for line := range strings.Lines(aligned.String()) {
			b.WriteString(strings.TrimRight(line, " \n") + "\n")
		}
	}
	if len(r.Notes) > 0 {
		b.WriteString("\n")
	}
	for _, n := range r.Notes {
		b.WriteString("note: " + n + "\n")
	}
	return b.String()
}

// markdown is the report for docs/performance.md.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "`%s`: %s.\n%s.\n\n%s", r.Command, r.Machine, r.conditions(), explanation)
	for _, t := range r.tables() {
		fmt.Fprintf(&b, "\n| %s |\n|---|---%s|\n", strings.Join(t.head, " | "), strings.Repeat("|--:", len(t.head)-2))
		for _, row := range t.rows {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		}
	}
	if len(r.Notes) > 0 {
		b.WriteString("\n")
	}
	for _, n := range r.Notes {
		b.WriteString("- " + n + "\n")
	}
	return b.String()
}
