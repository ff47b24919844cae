package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
)

// within is how soon after the last fault all must be as it should, if the Config does
// not say otherwise.
var within = lab.Scaled(time.Second)

// muchTooLate is how long a miss is watched: what comes late is another mistake
// than what never comes.
var muchTooLate = lab.Scaled(10 * time.Second)

// recovery is for how long after a flood the times are not counted: a daemon
// that was woken too often looks at most a few times a second for a while.
const recovery = 10 * time.Second

// mostAtOnce is how many faults come one upon the other, at most.
const mostAtOnce = 4

// A Config says what to run.
type Config struct {
	// Seed determines which faults come, and in which order. What the daemons
	// make of it depends on time as well.
	Seed uint64
	// Steps is how many faults there are.
	Steps int
	// Mode is the networking mode of the world.
	Mode lab.Mode
	// Direct has the daemons run with --path direct.
	Direct bool
	// Program is wslmirror, of which the daemons are, and what cleans up behind them.
	Program *sandbox.Program
	// Holder is wslmirror with the rights of the holder's unit. Two of three seeds have
	// holders beside the daemons, and WSL's port tracker; nil: none has.
	Holder *sandbox.Program
	// Rest is how long to wait after each burst. A daemon that is woken again and
	// again looks no more than a few times a second, so that without a rest the
	// times say how long that limit made it wait.
	Rest time.Duration
	// Within is how soon after the last fault all must be as it should; zero is a second.
	// That is the promise, which a machine with other work cannot keep.
	Within time.Duration
	// Told, if set, is told each step.
	Told func(seed uint64, step int, fault string)
}

// A Result is what a run has seen.
type Result struct {
	Steps, Bursts, Asked int
	// Held is how many ports holders held, of all bursts.
	Held  int
	Times Times
}

// Add adds another run.
func (r *Result) Add(s Result) {
	r.Steps += s.Steps
	r.Bursts += s.Bursts
	r.Asked += s.Asked
	r.Held += s.Held
	for fault, d := range s.Times {
		r.Times[fault] = append(r.Times[fault], d...)
	}
}

// Run lets faults loose on a world of its own. The error is a *Miss if the world
// was not as it should be.
func Run(ctx context.Context, cfg Config) (res Result, err error) {
	r, err := newRunner(cfg)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	for r.res.Steps < cfg.Steps && ctx.Err() == nil {
		if err := r.burst(); err != nil {
			return r.res, r.miss(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(cfg.Rest):
		}
	}
	if err := ctx.Err(); err != nil {
		return r.res, err
	}
	if err := r.leave(); err != nil {
		return r.res, r.miss(err)
	}
	return r.res, nil
}

// A runner is one run.
type runner struct {
	w       *world
	changes *changes
	res     Result
	recent  []string
	last    sight // the last time that all was as it should be
	flooded time.Time
	judged  bool // what wslmirror should have done can be told
	closed  int  // in which burst somebody has asked a closed port
}

// newRunner makes a world, and waits until all in it is as it should be.
func newRunner(cfg Config) (*runner, error) {
	w, err := newWorld(cfg)
	if err != nil {
		return nil, err
	}
	changes, err := w.watch()
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	r := &runner{w: w, changes: changes, res: Result{Times: Times{}}}
	if err := r.converge(time.Now().Add(lab.Scaled(30 * time.Second))); err != nil {
		return nil, errors.Join(fmt.Errorf("before the first fault: %w", err), r.close())
	}
	return r, nil
}

func (r *runner) close() error {
	r.changes.close()
	return r.w.close()
}

// deadline is until when all must be as it should, from now on.
func (w *world) deadline() time.Time {
	if w.cfg.Within > 0 {
		return time.Now().Add(w.cfg.Within)
	}
	return time.Now().Add(within)
}

// burst is one fault, or some at once, and then the check.
func (r *runner) burst() error {
	n := 1
	if r.w.rng.IntN(3) == 0 {
		n += r.w.rng.IntN(mostAtOnce)
	}
	n = min(n, r.w.cfg.Steps-r.res.Steps)
	before := r.w.expected()
	var (
		kinds kind
		f     fault
		began time.Time
	)
	for i := range n {
		f = r.w.choose()
		if i > 0 && f.kind&settled != 0 {
			if err := r.converge(r.w.deadline()); err != nil {
				return err
			}
		}
		r.res.Steps++
		r.w.step++
		r.recent = append(r.recent, f.name)
		r.recent = r.recent[max(0, len(r.recent)-12):]
		if r.w.cfg.Told != nil {
			r.w.cfg.Told(r.w.cfg.Seed, r.res.Steps, f.name)
		}
		if f.kind&cuts != 0 {
			r.w.cut(nil)
		}
		kinds |= f.kind
		r.changes.begin()
		began = time.Now()
		if err := f.do(r.w); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if n > 1 || kinds&others == 0 {
		// Which daemon saw what, when faults come at once, cannot be told; nor what one
		// that has just taken over has seen.
		r.w.wsl.due, r.w.wsl.known = false, false
	}
	restores := r.w.wsl.due
	was := r.last
	deadline := r.w.deadline()
	if err := r.converge(deadline); err != nil {
		return err
	}
	r.res.Bursts++
	if f.kind&floods != 0 {
		r.flooded = time.Now()
	}
	if n == 1 && r.judged && time.Since(r.flooded) > recovery && (f.kind&damages != 0 || restores || !slices.Equal(before, r.w.expected())) {
		if took, ok := r.changes.took(began, f.kind&others != 0); ok {
			name := f.name
			if restores {
				name = restored
			}
			r.res.Times.add(name, took)
		}
	}
	if kinds&others == 0 && r.last.others != was.others {
		return fmt.Errorf("what is not wslmirror's has changed:\n%s", difference(strings.Split(was.others, "\n"), strings.Split(r.last.others, "\n")))
	}
	if harm := r.w.harmed(r.last); harm != "" {
		return fmt.Errorf("what nobody but wslmirror could have touched has changed:\n%s", harm)
	}
	if err := r.w.died(); err != nil {
		return err
	}
	if !r.judged {
		return nil
	}
	if err := r.w.settleHolders(deadline); err != nil {
		return err
	}
	if r.w.holdersJudged() {
		r.res.Held += len(r.w.toHold())
		if n == 1 && f.name == publishedByRules && time.Since(r.flooded) > recovery {
			r.res.Times.add(untilHeld, time.Since(began))
		}
	}
	ways := r.w.ways()
	all := ways
	if len(ways) > 0 && r.res.Bursts >= r.closed+closedEvery {
		r.closed = r.res.Bursts
		all = append(slices.Clip(ways), way{r.w.bench.WSL, "tcp", at(localhost, closedPort), refused, nil})
	}
	r.res.Asked += len(all)
	if err := askAll(all, deadline); err != nil {
		return err
	}
	if err := r.w.askKept(ways); err != nil {
		return err
	}
	return r.w.forgeInVain()
}

// closedEvery is how seldom somebody asks a closed port, in bursts: it takes a second.
const closedEvery = 15

// converge waits until the kernel holds what it should. If it is too late, the
// error says whether it came to that at all. A look takes a while, on a busy
// machine as long as healing: what it sees may be as old as its beginning, so that
// is what must be before the deadline.
func (r *runner) converge(deadline time.Time) error {
	var late string // what was wrong at the deadline
	for {
		again, over := r.changes.next(), time.Since(deadline)
		s, err := r.w.look()
		if err != nil {
			return err
		}
		wrong, judged, err := r.w.wrong(s)
		if err != nil {
			return err
		}
		switch {
		case wrong == "" && late != "":
			return fmt.Errorf("%v too late the kernel holds what it should; until then:\n%s", over.Round(time.Millisecond), late)
		case wrong == "":
			r.last, r.judged = s, judged
			r.w.wsl.whole, r.w.wsl.due = r.w.lost(s) == "", false
			r.w.wsl.known = judged && r.w.serving() && r.w.wsl.whole
			return nil
		case over > muchTooLate:
			return fmt.Errorf("the kernel does not hold what it should, %v after it should have:\n%s", over.Round(time.Second), wrong)
		case over > 0 && late == "":
			late = wrong
		}
		select {
		case <-again:
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// wrong says what is not as it should be. It cannot be told, and so is not
// judged, while the daemon that owns the table is stopped; and of what a daemon
// left that was killed, only that it is not the table.
func (w *world) wrong(s sight) (wrong string, judged bool, err error) {
	if len(w.daemons) == 0 && w.crashed {
		table := slices.DeleteFunc(slices.Clone(s.ours), func(line string) bool {
			return strings.HasPrefix(line, "rule: ") || strings.HasPrefix(line, "accept: ")
		})
		return difference(nil, table), false, nil
	}
	if w.acting() < len(w.daemons) {
		owner, err := w.owner()
		if err != nil || w.acting() == 0 || owner != nil && owner.stopped {
			return "", false, err
		}
	}
	w.wsl.block = w.cfg.Mode == lab.Consomme || s.wsl["ip nat WSLPOSTROUTING"] > 0
	wrong = difference(w.expected(), s.ours) + difference(w.opened(), s.opened)
	if w.wsl.due {
		wrong += w.lost(s)
	}
	return wrong, true, nil
}

// leave ends all daemons, after which nothing may be left of them.
func (r *runner) leave() error {
	w := r.w
	for len(w.daemons) > 0 {
		d := w.daemons[0]
		if d.stopped {
			d.stopped = false
			if err := d.proc.Process.Signal(unix.SIGCONT); err != nil {
				return err
			}
		}
		if err := w.end(d, unix.SIGTERM); err != nil {
			return err
		}
	}
	if w.crashed {
		if _, err := w.cleanup(); err != nil {
			return err
		}
		w.crashed = false
	}
	was := r.last
	if err := r.converge(w.deadline()); err != nil {
		return fmt.Errorf("all daemons have stopped: %w", err)
	}
	if err := w.settleHolders(w.deadline()); err != nil {
		return fmt.Errorf("all daemons have stopped: %w", err)
	}
	if r.last.others != was.others {
		return fmt.Errorf("all daemons have stopped, and what is not theirs has changed:\n%s", difference(strings.Split(was.others, "\n"), strings.Split(r.last.others, "\n")))
	}
	return nil
}
