package field

import (
	"slices"
	"strings"
	"time"
)

// An Outcome is what a client met.
type Outcome string

// The outcomes.
const (
	Answers    Outcome = "answers"
	NoAnswer   Outcome = "no answer"
	Refused    Outcome = "refused"             // at once
	Late       Outcome = "refused after 1 s"   // or later
	Reset      Outcome = "reset"               // a connection that was open
	Closed     Outcome = "closed"              // a connection that was open, without an answer
	ByAnother  Outcome = "answered by another" // than was asked
	Bound      Outcome = "may bind"            // Windows
	InUse      Outcome = "may not bind"        // Windows
	Failed     Outcome = "failed"              // the client, for a reason of its own
	NotChecked Outcome = "not checked"
)

// Outcomes are those that the bench shows, any of them. Without any, the bench shows
// nothing.
type Outcomes []Outcome

var (
	answers = Outcomes{Answers}
	fails   = Outcomes{NoAnswer, Reset, Refused, Late, Closed}
	refuses = Outcomes{Refused, Late}
)

func (o Outcomes) String() string {
	if slices.Equal(o, fails) {
		return "fails"
	}
	var words []string
	for _, w := range o {
		words = append(words, string(w))
	}
	return strings.Join(words, " or ")
}

// late is from when on a refusal is one that came after a second. Networks that refuse at
// once do so within milliseconds.
const late = 500 * time.Millisecond

// refusal is Refused or Late.
func refusal(took time.Duration) Outcome {
	if took >= late {
		return Late
	}
	return Refused
}

// An Answer is what came of a question.
type Answer struct {
	Outcome Outcome `json:"outcome"`
	// Milliseconds are how long it took, with the start of a program of Windows if one
	// asked.
	Milliseconds float64 `json:"ms"`
	Detail       string  `json:"detail,omitempty"`
	// Bench is what the bench shows.
	Bench Outcomes `json:"bench,omitempty"`
}

// A Verdict compares an answer with the bench.
type Verdict int

// The verdicts.
const (
	Agrees Verdict = iota
	Differs
	Unknown // the bench shows nothing, or the answer is not known
)

// Verdict is that of a.
func (a Answer) Verdict() Verdict {
	switch {
	case a.Outcome == NotChecked, len(a.Bench) == 0:
		return Unknown
	case slices.Contains(a.Bench, a.Outcome):
		return Agrees
	}
	return Differs
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
