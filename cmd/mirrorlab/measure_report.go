package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
)

// A report is all that was measured.
type report struct {
	Command string  `json:"command"`
	Machine machine `json:"machine"`
	Rounds  int     `json:"rounds"`
	Seconds int     `json:"seconds"` // of each load
	// Series has an entry for each quantity, client and variant, in the order
	// in which they are shown.
	Series []*series `json:"series"`
	// Ratios compares two variants, round by round.
	Ratios []*ratio `json:"ratios"`
	// Others is the share of the machine's CPU time that others took, from 0
	// to 1, for each trial of each round.
	Others summary  `json:"others"`
	Notes  []string `json:"notes,omitempty"`
}

// A series is a quantity by round.
type series struct {
	quantity
	Client  string `json:"client"`
	Variant string `json:"variant"`
	summary
}

// A ratio is that of two series, of what was measured in the same round.
type ratio struct {
	quantity
	Client string   `json:"client"`
	Of     string   `json:"of"`
	To     string   `json:"to"`
	Goal   *float64 `json:"goal,omitempty"` // the least, or the most where less is better
	summary
}

// A summary is some values, by round.
type summary struct {
	Values []float64 `json:"values"`
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	// Low and High are between which the true median is, with 95 %.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// summarize fills the rest of a summary of which the values are known.
func (s *summary) summarize() {
	sorted := slices.Sorted(slices.Values(s.Values))
	n := len(sorted)
	s.Min, s.Max = sorted[0], sorted[n-1]
	s.Median = (sorted[(n-1)/2] + sorted[n/2]) / 2
	k := outside(n)
	s.Low, s.High = sorted[k], sorted[n-1-k]
}

// outside is how many of n values may be left out at either end so that the rest
// holds the median with 95 %. Each value is below the median or above it like a
// coin, whatever the distribution. Of fewer than six none may.
func outside(n int) (k int) {
	p := math.Pow(0.5, float64(n)) // of exactly k heads
	for sum := p; sum <= 0.025; k++ {
		p *= float64(n-k) / float64(k+1)
		sum += p
	}
	return max(k-1, 0)
}

// add adds the value of a round.
func (r *report) add(q quantity, client string, v variant, value float64) {
	s := r.find(q, client, v)
	if s == nil {
		s = &series{quantity: q, Client: client, Variant: v.Key}
		r.Series = append(r.Series, s)
	}
	s.Values = append(s.Values, value)
}

// find returns nil if there is no such series.
func (r *report) find(q quantity, client string, v variant) *series {
	for _, s := range r.Series {
		if s.quantity == q && s.Client == client && s.Variant == v.Key {
			return s
		}
	}
	return nil
}

// ratio returns nil if there is no such ratio.
func (r *report) ratio(q quantity, client string, of, to variant) *ratio {
	for _, x := range r.Ratios {
		if x.quantity == q && x.Client == client && x.Of == of.Key && x.To == to.Key {
			return x
		}
	}
	return nil
}

// comparisons are the pairs that say something, with the goals of the project.
// A ratio of a quantity of which less is better should be at most its goal.
var comparisons = []struct {
	of, to variant
	goals  map[quantity]float64
}{
	{byDirect, byProxy, map[quantity]float64{keepAlive: 1.9, newConns: 1.8, udp: 2, cpu: 1}},
	{byDirect, byLimit, map[quantity]float64{keepAlive: 0.95, newConns: 0.95, bulk: 0.95}},
	{byServer, byAlone, map[quantity]float64{keepAlive: 0.98, keepCPU: 1.02, newConns: 0.98, bulk: 0.98, udp: 0.98}},
	// For the plot.
	{byLimit, byProxy, nil},
	{byServer, byProxy, nil},
}

// compare summarizes what was measured.
func (r *report) compare() {
	slices.SortStableFunc(r.Series, func(a, b *series) int {
		return cmp.Compare(slices.Index(allQuantities, a.quantity), slices.Index(allQuantities, b.quantity))
	})
	for _, s := range r.Series {
		s.summarize()
	}
	r.Others.summarize()
	for _, c := range comparisons {
		for _, s := range r.Series {
			other := r.find(s.quantity, s.Client, c.to)
			if s.Variant != c.of.Key || other == nil || s.Unit == "" { // a count may be zero
				continue
			}
			x := &ratio{quantity: s.quantity, Client: s.Client, Of: c.of.Key, To: c.to.Key}
			if goal, ok := c.goals[s.quantity]; ok {
				x.Goal = &goal
			}
			for i, value := range s.Values {
				x.Values = append(x.Values, value/other.Values[i])
			}
			x.summarize()
			r.Ratios = append(r.Ratios, x)
		}
	}
}

// mark says whether the median is as it should be: ✓ or ✗, or ≈ if it is not, but
// might be: the rounds do not tell. Fewer than six never do.
func (x *ratio) mark() string {
	sign := 1.0
	if x.LessIsBetter {
		sign = -1
	}
	switch goal := sign * *x.Goal; {
	case sign*x.Median >= goal:
		return tick(true)
	case max(sign*x.Low, sign*x.High) >= goal, len(x.Values) < 6:
		return "≈"
	}
	return tick(false)
}

// write writes the report to w and to the files that are named.
func (r *report) write(w io.Writer, asJSON, markdown bool, svg, readme string) error {
	if svg != "" {
		if err := r.plot(svg); err != nil {
			return fmt.Errorf("draw the plot: %w", err)
		}
	}
	if readme != "" {
		if err := replaceBlock(readme, benchBlock, r.markdown()); err != nil {
			return err
		}
	}
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	text := r.text()
	if markdown {
		text = r.markdown()
	}
	_, err := io.WriteString(w, text)
	return err
}

// The place of the report in docs/performance.md.
const (
	benchBlock = "<!-- mirrorlab bench --markdown -->\n"
	blockEnd   = "<!-- end -->"
)

// replaceBlock replaces what a file has between a line and the end of its block.
func replaceBlock(path, begin, text string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, blockEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for the report: %s", path, strings.TrimSpace(begin))
	}
	return os.WriteFile(path, []byte(before+begin+text+blockEnd+after), 0o644)
}
