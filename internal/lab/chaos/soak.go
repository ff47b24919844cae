package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// A SoakResult is what a soak has seen.
type SoakResult struct {
	Took                       time.Duration
	Windows, Linux, Containers Load
	Cost
	// Early and Late are of the one daemon of the first half.
	Early, Late Level
	// Changes are the ports, containers and networks that came and went, TakeOvers
	// how often another daemon took over, one half after a kill.
	Changes, TakeOvers int
}

// The rhythm of a soak. The stand-ins for engines write all their rules anew at each
// change, and so take away what wslmirror has placed among them, which real ones do
// not. So there are no more changes than looks (passesPerSecond of internal/mirror).
const (
	changeEvery   = 250 * time.Millisecond
	takeOverEvery = 5 * time.Second
)

// Soak has containers come and go while clients ask, who should notice nothing. In
// the second half daemons take over from one another; in the first one serves all
// the time, in whom slow growth shows.
func Soak(ctx context.Context, cfg Config, d time.Duration) (res SoakResult, err error) {
	r, err := newRunner(cfg)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	w := r.w
	s := soak{w: w, r: r, began: time.Now()}
	if s.meter, err = newMeter(w.daemons[0]); err != nil {
		return res, err
	}
	// One container is enough of a load.
	clients := []*lab.Host{w.bench.Windows, w.bench.WSL, w.docker.bridges[0].containers[0].host}
	ways := slices.DeleteFunc(w.ways(), func(a way) bool { return !slices.Contains(clients, a.from) })
	// What the clients ask for stays; all else comes and goes.
	for _, a := range ways {
		s.steady = append(s.steady, a.port)
	}
	s.load = startLoad(ctx, ways)
	err = s.run(ctx, d)
	loads := s.load.stop(s.gaps)
	s.res.Windows, s.res.Linux, s.res.Containers = loads[clients[0]], loads[clients[1]], loads[clients[2]]
	return s.result(), errors.Join(err, s.meter.close())
}

type soak struct {
	w      *world
	r      *runner
	began  time.Time
	steady []*port // nil is one that is of no engine
	load   *load
	meter  *meter
	past   Cost // of the daemons that have ended
	levels []Level
	gaps   []gap
	res    SoakResult
}

func (s *soak) result() SoakResult {
	res := s.res
	res.Took = time.Since(s.began)
	res.Cost = s.past
	res.Cost.add(s.meter.cost)
	return res
}

func (s *soak) run(ctx context.Context, d time.Duration) error {
	end, half := time.After(d), time.After(d/2)
	change := time.NewTicker(changeEvery)
	defer change.Stop()
	var takeOver <-chan time.Time
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return s.r.converge(s.r.w.deadline())
		case <-change.C:
			err = s.change()
		case <-half:
			s.res.Early, s.res.Late = earlyAndLate(s.levels)
			t := time.NewTicker(takeOverEvery)
			defer t.Stop()
			takeOver = t.C
		case <-takeOver:
			err = s.takeOver()
		case <-second.C:
			err = errors.Join(s.meter.sample(), s.w.died())
			s.levels = append(s.levels, s.meter.now)
		}
		if err != nil {
			return err
		}
	}
}

// change makes a port, a container or a network come or go, of those that
// nobody asks for.
func (s *soak) change() error {
	w := s.w
	s.res.Changes++
	network := w.docker.bridges[1]
	switch n := w.rng.IntN(20); {
	case n == 0 && network.there:
		return w.docker.remove(network)
	case n <= 1 && !network.there:
		return w.docker.create(network)
	}
	e := pick(w, w.engines())
	p := pick(w, e.those(func(p *port) bool { return !slices.Contains(s.steady, p) }))
	if p.to != nil {
		if err := p.release(); err != nil {
			return err
		}
	} else if err := p.publish(pick(w, e.plugged())); err != nil {
		return err
	}
	return e.write()
}

// takeOver starts another daemon, and ends the one that serves when the other
// stands by.
func (s *soak) takeOver() error {
	w := s.w
	if err := w.startDaemon(); err != nil {
		return err
	}
	m, err := newMeter(w.daemons[len(w.daemons)-1])
	if err != nil {
		return err
	}
	if err := errors.Join(s.meter.sample(), s.meter.close()); err != nil {
		return err
	}
	s.past.add(s.meter.cost)
	s.meter = m
	s.res.TakeOvers++
	sig := unix.SIGTERM
	if s.res.TakeOvers%2 == 0 {
		sig = unix.SIGKILL
	}
	began := time.Now()
	if err := w.end(w.daemons[0], sig); err != nil {
		return err
	}
	if err := s.r.converge(s.r.w.deadline()); err != nil {
		return fmt.Errorf("after a take-over: %w", err)
	}
	s.gaps = append(s.gaps, gap{span{began, time.Now()}, sig == unix.SIGKILL})
	return nil
}
