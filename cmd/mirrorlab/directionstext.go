package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// directionMarks are the ticks of a row, for each column.
type directionMarks [len(directionColumns)]string

// A directionLine is all rows of a direction that came out the same.
type directionLine struct {
	name, engines string
	marks         directionMarks
}

// marks are the row's ticks: for TCP, and for UDP if that is asked.
func (r directionRow) marks() (marks directionMarks) {
	for i, c := range r.got {
		marks[i] = tick(c.tcp)
		if !r.tcp {
			marks[i] += " " + tick(c.udp)
		}
	}
	return marks
}

// directionTable puts together what is the same: the engines of a mode, and then the
// modes of these engines. It begins with the heads.
func directionTable(rows []directionRow) [][]string {
	type key struct {
		name  string
		mode  lab.Mode
		marks directionMarks
	}
	keys, engines := grouped(rows, func(r directionRow) key { return key{r.name, r.mode, r.marks()} }, func(r directionRow) string { return r.engine })
	all, _ := grouped(rows, func(r directionRow) string { return r.engine }, func(directionRow) string { return "" })
	lines, modes := grouped(keys, func(k key) directionLine {
		return directionLine{k.name, allOr(engines[k], len(all)), k.marks}
	}, func(k key) string { return k.mode.String() })
	names, _ := grouped(rows, func(r directionRow) string { return r.name }, func(directionRow) string { return "" })
	slices.SortStableFunc(lines, func(a, b directionLine) int {
		return cmp.Compare(slices.Index(names, a.name), slices.Index(names, b.name))
	})
	table := [][]string{append([]string{"direction", "mode", "engine"}, directionColumns[:]...)}
	for _, l := range lines {
		table = append(table, append([]string{l.name, allOr(modes[l], len(lab.Modes)), l.engines}, l.marks[:]...))
	}
	return table
}

// grouped collects the values of equal keys. The keys are in the order of their firsts.
func grouped[T any, K comparable](list []T, key func(T) K, value func(T) string) (keys []K, values map[K][]string) {
	values = map[K][]string{}
	for _, t := range list {
		k := key(t)
		if values[k] == nil {
			keys = append(keys, k)
		}
		values[k] = append(values[k], value(t))
	}
	return keys, values
}

// allOr is "all" if there are n names, or the names.
func allOr(names []string, n int) string {
	if len(names) == n {
		return "all"
	}
	return strings.Join(names, ", ")
}

// refusalTable is who refuses, and when.
func refusalTable(list []refusal) [][]string {
	table := [][]string{{"mode", "without wslmirror", "with it"}}
	for _, r := range list {
		table = append(table, []string{r.mode.String(), r.without.roughly(), r.with.roughly()})
	}
	return table
}

func renderDirections(rows []directionRow) string {
	return "Who is answered? (TCP, UDP)\n\n" + plainTable(directionTable(rows))
}

func markdownDirections(rows []directionRow) string { return markdownTable(directionTable(rows), 3) }

func renderRefusals(list []refusal) string {
	table := refusalTable(list)
	for i, r := range list {
		table[i+1] = []string{r.mode.String(), r.without.exactly(), r.with.exactly()}
	}
	return fmt.Sprintf("How Linux meets %d closed ports of 127.0.0.1\n\n", closedPorts) + plainTable(table)
}

func markdownRefusals(list []refusal) string {
	return fmt.Sprintf("%d closed ports of 127.0.0.1, from Linux:\n\n", closedPorts) + markdownTable(refusalTable(list), 3)
}
