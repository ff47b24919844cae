package field

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wslmirror/wslmirror/internal/text"
)

// A Report is what came of a run. Its JSON form is an interface: fields are added, never
// renamed or removed.
type Report struct {
	Schema  int       `json:"schema"`
	Version string    `json:"version"` // of this program
	Date    time.Time `json:"date"`
	Mode    string    `json:"mode"`    // by what the kernel shows
	WSLInfo string    `json:"wslinfo"` // the mode as wslinfo prints it
	WSL     string    `json:"wsl"`     // its version
	Windows string    `json:"windows"` // its version
	Kernel  string    `json:"kernel"`
	// SourcePorts are ip_local_port_range, "" if that is not known.
	SourcePorts string `json:"source_ports"`

	Summary    Summary  `json:"summary"`
	Engines    []Engine `json:"engines"`
	Setup      Setup    `json:"setup"`
	Rows       []Row    `json:"answers"`
	Held       []Held   `json:"held_ports"`
	Speeds     []Speed  `json:"speeds"`
	NotChecked []string `json:"not_checked"`

	questions []Question
}

// A Row is a question, and its answers without wslmirror and with it.
type Row struct {
	Question
	Without Answer `json:"without"`
	With    Answer `json:"with"`
}

// A Summary counts the lines of the setup and the answers.
type Summary struct {
	Agrees  int      `json:"agrees"`
	Unknown int      `json:"unknown"` // not checked, or the bench shows nothing
	Differs []string `json:"differs"`
}

func newReport(l *Look) *Report {
	return &Report{
		Schema: 1, Date: time.Now().UTC().Truncate(time.Second), Mode: string(l.Mode), WSLInfo: l.Guest.Mode,
		WSL: l.WSL, Windows: l.Build, Kernel: l.Guest.Release,
	}
}

// note says what was not checked.
func (r *Report) note(what string, err error) {
	r.NotChecked = append(r.NotChecked, fmt.Sprintf("%s: %s", what, text.Line(err.Error())))
}

// ask makes a row of each question.
func (r *Report) ask(list []Question) {
	r.questions = list
	for _, q := range list {
		row := Row{Question: q}
		for column, a := range row.columns() {
			*a = Answer{Outcome: NotChecked, Bench: q.Bench[column]}
		}
		r.Rows = append(r.Rows, row)
	}
}

func (r *Row) columns() [columns]*Answer { return [columns]*Answer{without: &r.Without, with: &r.With} }

func (r *Report) answer(column int, got []Answer) {
	for i, a := range got {
		*r.Rows[i].columns()[column] = a
	}
}

func (r *Report) measured(column int, figures map[string]*Figure) {
	for _, q := range r.questions {
		path := q.String()
		f := figures[path]
		if !isMeasured(q) {
			continue
		}
		if column == without {
			r.Speeds = append(r.Speeds, Speed{Path: path, Without: f})
			continue
		}
		for i := range r.Speeds {
			if r.Speeds[i].Path == path {
				r.Speeds[i].With = f
			}
		}
	}
}

// Judge compares all with the bench, and fills the summary in.
func (r *Report) Judge() {
	s := Summary{Agrees: r.Setup.Agrees}
	unexpected := slices.Clone(r.Setup.Unexpected)
	for _, l := range r.Setup.Missing {
		same := func(other string) bool { return subject(other) == subject(l) }
		if i := slices.IndexFunc(unexpected, same); i >= 0 {
			s.Differs = append(s.Differs, fmt.Sprintf("%s; on the bench: %s", unexpected[i], l))
			unexpected = slices.Delete(unexpected, i, i+1)
			continue
		}
		s.Differs = append(s.Differs, "missing: "+l)
	}
	for _, l := range unexpected {
		s.Differs = append(s.Differs, "not on the bench: "+l)
	}
	judge := func(what string, a Answer) {
		switch a.Verdict() {
		case Agrees:
			s.Agrees++
		case Unknown:
			s.Unknown++
		default:
			s.Differs = append(s.Differs, fmt.Sprintf("%s: %s; on the bench: %s", what, a.said(), a.Bench))
		}
	}
	for i := range r.Rows {
		q, before, after := r.Rows[i].Question.String(), r.Rows[i].Without, r.Rows[i].With
		if before.Verdict() == Differs && after.Verdict() == Differs && slices.Equal(before.Bench, after.Bench) {
			judge(fmt.Sprintf("%s, without wslmirror: %s, with it", q, before.said()), after)
			continue
		}
		for column, a := range r.Rows[i].columns() {
			judge(q+", "+heads[column], *a)
		}
	}
	for _, h := range r.Held {
		judge(h.What, h.Answer)
	}
	s.Unknown += len(r.Setup.NotChecked)
	r.Summary = s
}

// subject is what a line of the setup is about: which sysctl, say.
func subject(line string) string {
	for _, verb := range []string{" = ", " is ", ": "} {
		if before, _, found := strings.Cut(line, verb); found && !strings.HasPrefix(line, "ip rule ") {
			return before
		}
	}
	return line
}

var heads = [columns]string{without: "without wslmirror", with: "with wslmirror"}

func (a Answer) said() string {
	if a.Detail != "" {
		return fmt.Sprintf("%s (%s)", a.Outcome, a.Detail)
	}
	return string(a.Outcome)
}

// Markdown is the report for people. What matters is in the first lines.
func (r *Report) Markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	list := func(title string, items []string) {
		if len(items) == 0 {
			return
		}
		p("\n%s\n", title)
		for _, s := range items {
			p("- %s", cell(s))
		}
	}
	s := r.Summary
	p("# wslmirror on a real Windows: %s\n", r.Mode)
	p("**Differs from the bench: %d.** Agrees: %d. Not judged: %d.", len(s.Differs), s.Agrees, s.Unknown)
	list("Differs:", s.Differs)
	list("Agrees:", r.agreeing())
	list("Not checked:", r.NotChecked)

	p("\n| | |\n|---|---|")
	for _, f := range [][2]string{
		{"WSL", r.WSL}, {"Windows", r.Windows}, {"kernel", r.Kernel}, {"source ports", r.SourcePorts}, {"mode, by the kernel", r.Mode}, {"mode, by wslinfo", r.WSLInfo},
		{"mirrorlab", r.Version}, {"date", r.Date.Format(time.DateOnly)},
	} {
		p("| %s | %s |", f[0], cell(f[1]))
	}
	for _, e := range r.Engines {
		p("| %s | %s |", e.Name, cell(e.Version))
	}

	p("\n## Who is answered\n\n| request | %s | on the bench | %s | on the bench | |\n|---|---|---|---|---|---|", heads[without], heads[with])
	for _, row := range r.Rows {
		p("| %s | %s | %s | %s | %s | %s |", cell(row.Question.String()), row.Without.cell(), row.Without.Bench, row.With.cell(), row.With.Bench, mark(row.Without, row.With))
	}
	if len(r.Held) > 0 {
		p("\n## Held ports\n\n| | without wslmirror | on the bench | |\n|---|---|---|---|")
		for _, h := range r.Held {
			p("| %s | %s | %s | %s |", cell(h.What), h.Answer.cell(), h.Bench, mark(h.Answer))
		}
	}
	p("\n## What WSL has set up\n\n%d lines are as on the bench.", r.Setup.Agrees)
	list("Missing:", r.Setup.Missing)
	list("Not on the bench:", r.Setup.Unexpected)
	list("Of others:", r.Setup.Beside)
	list("Not checked:", r.Setup.NotChecked)
	if slices.ContainsFunc(r.Speeds, func(s Speed) bool { return s.Without != nil || s.With != nil }) {
		p("\n## How fast, roughly\n\nRequests on one connection, one after the other, for less than a second.\n")
		p("| path | without: median | requests/s | with: median | requests/s |\n|---|--:|--:|--:|--:|")
		for _, s := range r.Speeds {
			if s.Without == nil && s.With == nil {
				continue
			}
			p("| %s | %s | %s |", cell(s.Path), s.Without, s.With)
		}
	}
	return b.String()
}

// agreeing says what agrees, part by part.
func (r *Report) agreeing() (list []string) {
	if r.Setup.Agrees > 0 {
		list = append(list, fmt.Sprintf("what WSL has set up: %d lines", r.Setup.Agrees))
	}
	for column, head := range heads {
		n := 0
		for i := range r.Rows {
			if r.Rows[i].columns()[column].Verdict() == Agrees {
				n++
			}
		}
		if n > 0 {
			list = append(list, fmt.Sprintf("answers %s: %d of %d", head, n, len(r.Rows)))
		}
	}
	n := 0
	for _, h := range r.Held {
		if h.Verdict() == Agrees {
			n++
		}
	}
	if n > 0 {
		list = append(list, fmt.Sprintf("held ports: %d of %d", n, len(r.Held)))
	}
	return list
}

// mark is ✗ if any answer differs, ✓ if all agree, and else "".
func mark(list ...Answer) string {
	mark := "✓"
	for _, a := range list {
		switch a.Verdict() {
		case Differs:
			return "✗"
		case Unknown:
			mark = ""
		}
	}
	return mark
}

// cell is an answer with its time, where that tells something.
func (a Answer) cell() string {
	if a.Outcome == NotChecked || a.Outcome == Bound || a.Outcome == InUse {
		return string(a.Outcome)
	}
	return cell(fmt.Sprintf("%s, %.1f ms", a.said(), a.Milliseconds))
}

// String is two cells of a table.
func (f *Figure) String() string {
	if f == nil {
		return "| "
	}
	return fmt.Sprintf("%.2f ms | %.0f", f.MedianMS, f.PerSecond)
}

// cell is s in one cell of a table.
func cell(s string) string { return strings.ReplaceAll(text.Line(s), "|", `\|`) }

// JSON is the report for programs. No list is null.
func (r *Report) JSON() ([]byte, error) {
	for _, list := range []*[]string{&r.NotChecked, &r.Summary.Differs, &r.Setup.Lines, &r.Setup.Missing, &r.Setup.Unexpected, &r.Setup.Beside, &r.Setup.NotChecked} {
		*list = append([]string{}, *list...)
	}
	r.Engines, r.Rows = append([]Engine{}, r.Engines...), append([]Row{}, r.Rows...)
	r.Held, r.Speeds = append([]Held{}, r.Held...), append([]Speed{}, r.Speeds...)
	b, err := json.MarshalIndent(r, "", "  ")
	return append(text.JSON(b), '\n'), err
}

// Redacted are both forms, with what is private replaced by the same words in both.
func (r *Report) Redacted(redactor *text.Redactor) (markdown, asJSON string, err error) {
	b, err := r.JSON()
	if err != nil {
		return "", "", err
	}
	for _, version := range []string{r.WSL, r.Windows, r.Kernel, r.Version} {
		redactor.Keep(version)
	}
	for _, e := range r.Engines {
		redactor.Keep(e.Version)
	}
	const separator = "\n\x00\n"
	both := redactor.Redact(r.Markdown() + separator + string(b))
	markdown, asJSON, found := strings.Cut(both, separator)
	if !found {
		return "", "", errors.New("the report cannot be redacted")
	}
	return markdown, asJSON, nil
}
