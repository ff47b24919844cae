package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
)

// How many closed ports are asked, and for how long.
const (
	closedPorts     = 200
	firstClosedPort = 10000
	// Without wslmirror a short time shows that nothing answers. With it a client waits
	// longer: a busy machine may miss the first refusal, and the next one comes two seconds
	// later.
	refusalTimeout, refusalPatience = 3 * time.Second, 15 * time.Second
)

// closedAtOnce is how many are asked at a time while wslmirror runs. The kernel lets
// about 50 refusals pass at once (net.ipv4.icmp_msgs_burst), less or more at random and in
// older ones of all namespaces. Those above wait for the next SYN, which comes a second
// later or, before Linux 6.5, two.
const closedAtOnce = 16

// A refusal is how Linux meets closed ports of 127.0.0.1 in a mode.
type refusal struct {
	mode          lab.Mode
	without, with refusalTimes
}

// refusalTimes are how long the refusals took, sorted. What is missing was not refused
// within some time.
type refusalTimes struct {
	took   []time.Duration
	within time.Duration
}

// refusals connects to the closed ports in each mode.
func refusals(ctx context.Context, program *sandbox.Program, modes []lab.Mode, p progress) ([]refusal, error) {
	list := make([]refusal, len(modes))
	err := p.step(fmt.Sprintf("connect to %d closed ports in %d modes", closedPorts, len(modes)), func() error {
		errs := make([]error, len(modes))
		var asking sync.WaitGroup
		for i, mode := range modes {
			asking.Go(func() { list[i], errs[i] = refusalsOf(ctx, program, mode) })
		}
		asking.Wait()
		return errors.Join(errs...)
	})
	return list, err
}

func refusalsOf(ctx context.Context, program *sandbox.Program, mode lab.Mode) (r refusal, err error) {
	r.mode = mode
	b, err := lab.New(lab.Options{Mode: mode, Ports: 4096})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	atOnce := closedAtOnce
	if mode != lab.Consomme {
		atOnce = closedPorts // which all wait for nothing
	}
	if r.without, err = meetClosed(b.WSL, atOnce, refusalTimeout); err != nil {
		return r, err
	}
	d := daemon{host: b.WSL, program: program}
	if err := d.start(ctx); err != nil {
		return r, err
	}
	if r.with, err = meetClosed(b.WSL, closedAtOnce, refusalPatience); err != nil {
		return r, err
	}
	return r, d.stop(ctx)
}

// meetClosed connects to the closed ports, so many at a time. An error is what is neither
// a refusal nor a timeout.
func meetClosed(h *lab.Host, atOnce int, within time.Duration) (times refusalTimes, err error) {
	times.within = within
	var (
		mu     sync.Mutex
		asking sync.WaitGroup
		free   = make(chan struct{}, atOnce)
	)
	for port := range closedPorts {
		asking.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			var took time.Duration
			met := h.Do(func() error {
				begin := time.Now()
				c, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", firstClosedPort+port), within)
				took = time.Since(begin)
				if err == nil {
					c.Close()
				}
				return err
			})
			mu.Lock()
			defer mu.Unlock()
			var network net.Error
			switch {
			case errors.Is(met, unix.ECONNREFUSED):
				times.took = append(times.took, took)
			case met == nil:
				err = fmt.Errorf("closed port %d accepts a connection", firstClosedPort+port)
			case !errors.As(met, &network) || !network.Timeout():
				err = met
			}
		})
	}
	asking.Wait()
	slices.Sort(times.took)
	return times, err
}

// quantile is that of the refusals, of which there must be one.
func (t refusalTimes) quantile(q float64) time.Duration {
	return t.took[min(int(math.Ceil(q*float64(len(t.took))))-1, len(t.took)-1)]
}

// missing says how many were not refused, or "".
func (t refusalTimes) missing() string {
	switch n := closedPorts - len(t.took); n {
	case 0:
		return ""
	case closedPorts:
		return fmt.Sprintf("no answer within %.0f s", t.within.Seconds())
	default:
		return fmt.Sprintf("%d of %d without an answer within %.0f s", n, closedPorts, t.within.Seconds())
	}
}

// roughly is what does not differ from one run to the next.
func (t refusalTimes) roughly() string {
	if missing := t.missing(); missing != "" {
		return missing
	}
	median := t.quantile(0.5)
	if median < 500*time.Millisecond {
		return "refused at once"
	}
	return fmt.Sprintf("refused after about %.0f s", median.Seconds())
}

// exactly is with the times.
func (t refusalTimes) exactly() string {
	text := t.roughly()
	if len(t.took) > 0 {
		text += fmt.Sprintf(" (median %.4f s, p99 %.4f s)", t.quantile(0.5).Seconds(), t.quantile(0.99).Seconds())
	}
	return text
}

// refusalFaults says where a port is not refused although it should be.
func refusalFaults(list []refusal) (faults []string) {
	for _, r := range list {
		if missing := r.with.missing(); missing != "" {
			what := "does not repair it"
			if r.without.missing() == "" {
				what = "breaks it"
			}
			faults = append(faults, fmt.Sprintf("%s: closed ports: wslmirror %s: %s", r.mode, what, missing))
		}
	}
	return faults
}
