package field

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// How long clients in Linux wait. What answers does so within milliseconds. A closed port
// hangs, or refuses after a second or two.
var (
	patience       = lab.Scaled(2 * time.Second)
	closedPatience = lab.Scaled(5 * time.Second)
)

// tries is how often an answer is asked for that should come: on a network that has just
// changed the first packet may be lost.
const tries = 3

// askAll asks all questions of a column. hosts are the clients but for Windows.
func askAll(ctx context.Context, list []Question, column int, hosts map[Client]*lab.Host, windows interop) []Answer {
	out := make([]Answer, len(list))
	var ofWindows []int
	var asking sync.WaitGroup
	for i, q := range list {
		switch host := hosts[q.From]; {
		case q.From == Windows:
			ofWindows = append(ofWindows, i)
		case host == nil:
			out[i] = Answer{Outcome: NotChecked, Detail: "there is no such client"}
		default:
			asking.Go(func() { out[i] = askFrom(ctx, host, q, q.Bench[column]) })
		}
	}
	asking.Go(func() {
		questions := make([]Question, len(ofWindows))
		for j, i := range ofWindows {
			questions[j] = list[i]
		}
		for j, a := range windows.ask(ctx, questions, column) {
			out[ofWindows[j]] = a
		}
	})
	asking.Wait()
	for i, q := range list {
		out[i].Bench = q.Bench[column]
	}
	return out
}

// askFrom asks as a client in a host.
func askFrom(ctx context.Context, host *lab.Host, q Question, bench Outcomes) (a Answer) {
	wait := patience
	if q.Want == "" {
		wait = closedPatience
	}
	for range tries {
		if ctx.Err() != nil {
			return Answer{Outcome: NotChecked}
		}
		began := time.Now()
		answer, err := host.Ask(goName(q.Proto), q.At.String(), wait)
		took := time.Since(began)
		a = Answer{Outcome: outcomeOf(err, took), Milliseconds: milliseconds(took)}
		switch {
		case err == nil && answer != q.Want:
			a.Outcome, a.Detail = ByAnother, answer
		case a.Outcome == Failed:
			a.Detail = err.Error()
		}
		if !slices.Contains(bench, Answers) || a.Outcome == Answers {
			break
		}
	}
	return a
}

// outcomeOf is what an error of a client in Linux means.
func outcomeOf(err error, took time.Duration) Outcome {
	var timeout net.Error
	switch {
	case err == nil:
		return Answers
	case errors.As(err, &timeout) && timeout.Timeout():
		return NoAnswer
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Reset
	case errors.Is(err, syscall.ECONNREFUSED):
		return refusal(took)
	case errors.Is(err, io.EOF):
		return Closed
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return NoAnswer
	}
	return Failed
}

// goName is a protocol as Go calls it.
func goName(proto string) string {
	if proto == "UDP" {
		return "udp"
	}
	return "tcp"
}
