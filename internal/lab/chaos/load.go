package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// Load is what the clients in one host have met.
type Load struct {
	// Answers came, of which the Late took longer than a second: the first packet
	// of a connection may fall into the moment of a take-over, and is sent again
	// after a second. Lost never came, or from somebody else.
	Answers, Late, Lost int
	// OnKept are the answers on connections that stayed open all the time, and
	// Broken the connections that did not.
	OnKept, Broken int
	// InGap are those of Lost and Broken that a gap explains.
	InGap int
	// Faults says of the first few others what they were.
	Faults []string
}

// A span is from one moment to another.
type span struct{ from, to time.Time }

func (s span) overlaps(o span) bool { return !s.from.After(o.to) && !o.from.After(s.to) }

// A gap is from the end of a daemon until another has its table. What a container
// sends to a client in Linux then goes by way of Windows, which ends the connection:
// after a kill everywhere, since nothing was handed over, and else where the kernel
// serves the port itself. Nor do new connections of containers reach Windows then; those
// that there are go on.
type gap struct {
	span
	killed bool
}

// A failure is a question without an answer.
type failure struct {
	span
	kernel bool // the kernel does it all, by the table
	of     string
}

func (g gap) explains(f failure) bool { return g.overlaps(f.span) && (g.killed || f.kernel) }

const (
	late       = time.Second
	loadEvery  = 20 * time.Millisecond // of each client
	resend     = time.Second           // as a resolver does, for UDP
	mostFaults = 5
)

var lostAfter = lab.Scaled(8 * time.Second)

// A load is clients at work: of each way two, one that connects anew for each
// question, and for TCP one that keeps its connection, unless it is refused.
type load struct {
	mu       sync.Mutex
	totals   map[*lab.Host]Load
	failures map[*lab.Host][]failure
	group    sync.WaitGroup
	cancel   context.CancelFunc
}

func startLoad(ctx context.Context, ways []way) *load {
	l := &load{totals: map[*lab.Host]Load{}, failures: map[*lab.Host][]failure{}}
	ctx, l.cancel = context.WithCancel(ctx)
	for _, a := range ways {
		l.group.Go(func() { l.anew(ctx, a) })
		if a.proto == "tcp" && a.answer != refused {
			l.group.Go(func() { l.keep(ctx, a) })
		}
	}
	return l
}

// stop ends the load.
func (l *load) stop(gaps []gap) map[*lab.Host]Load {
	l.cancel()
	l.group.Wait()
	for host, failures := range l.failures {
		t := l.totals[host]
		t.sort(failures, gaps)
		l.totals[host] = t
	}
	return l.totals
}

func (t *Load) sort(failures []failure, gaps []gap) {
	for _, f := range failures {
		if slices.ContainsFunc(gaps, func(g gap) bool { return g.explains(f) }) {
			t.InGap++
		} else if len(t.Faults) < mostFaults {
			t.Faults = append(t.Faults, f.of)
		}
	}
}

func (l *load) count(a way, change func(*Load)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.totals[a.from]
	change(&t)
	l.totals[a.from] = t
}

// fail counts a question that was asked at a time and has no answer.
func (l *load) fail(a way, asked time.Time, err error, change func(*Load)) {
	l.count(a, change)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures[a.from] = append(l.failures[a.from], failure{span{asked, time.Now()}, a.byKernel(), fmt.Sprintf("%s: %v", a, err)})
}

// byKernel reports whether the kernel serves the port itself, or sends packets
// elsewhere that are for an address of Linux.
func (a way) byKernel() bool {
	return a.port != nil && !a.port.engine.proxy || !strings.HasPrefix(a.to, localhost)
}

// every calls ask again and again, until it says so or the end.
func every(ctx context.Context, d time.Duration, ask func() bool) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for ask() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *load) anew(ctx context.Context, a way) {
	every(ctx, loadEvery, func() bool {
		began := time.Now()
		if err := a.once(); err != nil {
			l.fail(a, began, err, func(t *Load) { t.Lost++ })
			return true
		}
		took := time.Since(began)
		l.count(a, func(t *Load) {
			t.Answers++
			if took > late {
				t.Late++
			}
		})
		return true
	})
}

// once asks as a patient client does.
func (a way) once() (err error) {
	patience := lostAfter
	if a.proto == "udp" {
		patience = resend
	}
	for deadline := time.Now().Add(lostAfter); ; {
		err = a.ask(patience)
		switch {
		case err == nil:
			return nil
		case a.proto != "udp" || time.Now().After(deadline):
			return err
		}
	}
}

func (l *load) keep(ctx context.Context, a way) {
	var c *lab.Client
	every(ctx, 5*loadEvery, func() bool {
		began := time.Now()
		if c == nil {
			var err error
			if c, err = a.from.Dial("tcp", "", a.to, lostAfter); err != nil {
				c = nil
				l.fail(a, began, err, func(t *Load) { t.Lost++ })
				return true
			}
		}
		answer, err := c.Ask(lostAfter)
		if err == nil && answer != a.answer {
			err = errors.New(answer + " answers")
		}
		if err == nil {
			l.count(a, func(t *Load) { t.OnKept++ })
			return true
		}
		l.fail(a, began, fmt.Errorf("kept connection: %w", err), func(t *Load) { t.Broken++ })
		c.Close()
		c = nil
		return true
	})
	if c != nil {
		c.Close()
	}
}
