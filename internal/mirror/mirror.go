// Package mirror is the daemon: it observes the kernel, decides what should be
// there, and applies the difference.
//
// It holds no state of its own that matters, but what it has seen of WSL's setup
// ([WSL]). Events only wake it; each time it reads everything again. So it does not
// matter which events were lost, in which order they came, or what was changed behind
// its back.
package mirror

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/wslmirror/wslmirror/internal/conntrack"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
)

// The daemon's times. A backOff is the pause after a failed pass and doubles
// from the first value to the last.
const (
	resync       = 5 * time.Minute
	firstBackOff = 10 * time.Millisecond
	lastBackOff  = 30 * time.Second
)

// How many readings events can cause. One event is looked at immediately.
// Events come in handfuls, though (a link that appears is five of them, and our
// own change is one more), so what arrives within rest after a reading is one
// look. Under a storm that goes on, passesPerSecond are left after a burst,
// which is large because a user who starts containers should not wait.
//
// After a look that took longer than costly, since others have very many rules, the
// rest is in proportion, so that looks take a fifth of a processor at most.
const (
	rest            = 5 * time.Millisecond
	costly          = 50 * time.Millisecond
	restShare       = 4
	longestRest     = time.Second // in which no sign of life is given
	passesPerSecond = 5
	burst           = 50
)

// Config is what a Daemon is told.
type Config struct {
	// Interface is the link on which Windows' localhost traffic arrives.
	Interface string
	Policy    Policy
	Log       logrus.FieldLogger
	// Publish is told the outcome of every pass. After an error, which it has
	// logged, the loop looks again soon.
	Publish func(status.Snapshot) error
	// Alive is called every AliveEvery from the loop itself, so that a watchdog
	// sees a loop that hangs. 0 turns it off.
	Alive      func()
	AliveEvery time.Duration
}

// A Daemon is one run of the loop.
type Daemon struct {
	cfg     Config
	watcher *netwatch.Watcher
	kernel  kernel
	asking  chan chan<- struct{}
	last    status.Snapshot
	trouble trouble // of the last pass
	backOff time.Duration
	// unevicted is why flows that should have begun anew have not, at the time evicted.
	unevicted error
	evicted   time.Time
}

// kernel is what the loop does to the system, apart from it so that the loop's
// timing can be tested without a system.
type kernel interface {
	// observe reads what is there; fresh means to trust nothing that was read
	// before.
	observe(fresh bool) (Observed, error)
	// apply makes it so.
	apply(Observed, Desired) error
	// show tells other daemons whether this one serves, and has the loop woken when
	// the daemon that owns the table ends; 0: there is no other.
	show(serves bool, owner uint32) error
	// evict has flows begin anew.
	evict(func(conntrack.Flow) bool) error
	// undo removes all that apply has made.
	undo() error
}

// New makes a Daemon.
func New(cfg Config) *Daemon {
	watcher := netwatch.NewWatcher(sources()...)
	watcher.Broken = func(source string, err error) {
		cfg.Log.WithError(err).WithField("source", source).Warn("lost events, subscribing again")
	}
	return newDaemon(cfg, watcher, newSystem(cfg.Interface, cfg.Policy, cfg.Log, watcher.Wake))
}

func newDaemon(cfg Config, watcher *netwatch.Watcher, k kernel) *Daemon {
	return &Daemon{cfg: cfg, watcher: watcher, kernel: k, asking: make(chan chan<- struct{})}
}

// Run keeps the kernel as it should be until ctx is done, and then undoes what
// it has done. An error of the kernel does not end it: it tries again, less and
// less often, and whenever something changes. The error is that of undoing.
//
// All sockets are opened on the calling goroutine's thread.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.watcher.Close()
	limit := rate.NewLimiter(passesPerSecond, burst)
	again := time.NewTimer(0)
	defer again.Stop()
	var alive <-chan time.Time
	if d.cfg.AliveEvery > 0 {
		t := time.NewTicker(d.cfg.AliveEvery)
		defer t.Stop()
		alive = t.C
	}
	var freshAt time.Time
	for {
		var asking []chan<- struct{}
		fresh := false
		select {
		case <-ctx.Done():
			return d.kernel.undo()
		case <-alive:
			d.cfg.Alive()
			continue
		case <-d.watcher.C():
		case <-again.C:
			fresh = true
		case a := <-d.asking:
			asking = append(asking, a)
		}
		if err := limit.Wait(ctx); err != nil {
			continue // done
		}
		asking = append(asking, d.pending()...)
		// However often it is woken: there are changes of which nothing tells.
		if fresh = fresh || time.Since(freshAt) >= resync; fresh {
			freshAt = time.Now()
		}
		before := processorTime()
		again.Reset(d.pass(fresh))
		pause := rest
		if took := processorTime() - before; took > costly {
			pause = min(restShare*took, longestRest)
		}
		for _, a := range asking {
			close(a)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// processorTime is what this process has used. Unlike a clock, it stands still while
// the process is stopped or others run.
func processorTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // which cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// pending takes the requests that this pass will answer too.
func (d *Daemon) pending() (asking []chan<- struct{}) {
	for {
		select {
		case a := <-d.asking:
			asking = append(asking, a)
		default:
			return asking
		}
	}
}

// Refresh returns when the kernel has been read anew and published, or when ctx
// is done.
func (d *Daemon) Refresh(ctx context.Context) {
	done := make(chan struct{})
	select {
	case d.asking <- done:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// rounds bounds how often a pass looks and acts. The longest way has three: a table,
// the bridges that it guards, and what is sent to them.
const rounds = 4

// A change is what a pass came to.
type change struct {
	obs  Observed
	want Desired
	// seen says that something was observed, serves that a table is ours.
	seen, serves bool
	// before and after are our table at both ends, without chains if there was none.
	before, after nft.Table
	err           error
}

// change looks and acts until nothing is left to do. What fails is tried a second
// time, after another look: the kernel may have changed, or removed what was there.
func (d *Daemon) change(fresh bool) (c change) {
	var failed error
	for round := range rounds {
		if c.obs, c.err = d.kernel.observe(fresh && round == 0); c.err != nil {
			return c
		}
		c.seen, c.serves = true, c.obs.Ours
		if round == 0 && c.obs.Ours {
			c.before = c.obs.Table.Table
		}
		c.want = decide(c.obs, d.cfg.Policy)
		c.err = d.kernel.apply(c.obs, c.want)
		switch {
		case c.err != nil && failed != nil:
			return c
		case c.err != nil:
			failed = c.err
			continue
		}
		if c.serves = c.want.Table != nil; c.serves {
			c.after = *c.want.Table
		}
		if !c.want.More {
			break
		}
	}
	if c.err == nil && failed != nil && !errors.Is(failed, nft.ErrOwned) {
		d.cfg.Log.WithError(failed).Warn("a change failed, then succeeded on the second try")
	}
	return c
}

// pass looks once and returns how long to wait for the next look, if no event
// comes before.
func (d *Daemon) pass(fresh bool) time.Duration {
	// Subscribe before reading, or a change between the two goes unseen.
	err := d.watcher.Subscribe()
	c := d.change(fresh)
	err = errors.Join(err, c.err)
	var unshown error
	if c.seen { // or all is as it was
		var owner uint32
		if c.want.State == status.Standby {
			owner = c.obs.Table.Owner
		}
		unshown = d.kernel.show(c.serves, owner)
	} else {
		c.serves = d.last.Table.Installed
	}
	unpublished := d.publish(c, err)
	// Eviction comes after the rules, because a flow that begins anew before could
	// begin again too early; after the last of several rounds, because the connections
	// that go past a proxy live, though the first table of a daemon that takes over
	// sends nothing past one; and after the world has been told, because it takes ten
	// milliseconds and more: the kernel looks through the connections of all network
	// namespaces.
	told := d.unevicted != nil
	if len(c.after.Chains) > 0 {
		d.evict(c)
	}
	switch {
	case err != nil:
		return d.pause(failed, lastBackOff, fresh)
	case c.want.More, c.want.Wait:
		return d.pause(unfinished, lastBackOff, fresh)
	case unshown != nil && unpublished != nil:
		return d.pause(noBeacon, lastBackOff, fresh)
	case unshown != nil:
		// Nothing depends on it, and it may never succeed.
		return d.pause(noBeacon, resync, fresh)
	case unpublished != nil:
		return d.pause(notPublished, lastBackOff, fresh)
	case told != (d.unevicted != nil):
		return firstBackOff // for the status
	case len(d.last.Degraded) > 0:
		// Modules may come late when WSL boots. Nothing tells of them.
		return d.pause(degraded, resync, fresh)
	}
	return d.pause(none, resync, fresh)
}

// evict has the flows begin anew that the new table concerns. Where that was not
// possible the last time, it is for all flows, as if there had been no table.
func (d *Daemon) evict(c change) {
	before := c.before
	if d.unevicted != nil {
		if time.Since(d.evicted) < askAgain {
			return
		}
		before = nft.Table{}
	}
	if match := evictions(before, c.after, c.obs.Rules.Published); match != nil {
		d.unevicted, d.evicted = d.kernel.evict(match), time.Now()
	}
}

// A trouble is why to look again soon.
type trouble int

const (
	none trouble = iota
	failed
	unfinished
	noBeacon
	notPublished
	degraded
)

// pause is how long to wait for the next look. It grows for as long as the trouble
// is the same, up to longest: who has long been unable to publish must not be late
// for an election. It grows when it was waited for, and not with each event: a handful
// of events are no long trouble.
func (d *Daemon) pause(t trouble, longest time.Duration, waited bool) time.Duration {
	if t != d.trouble {
		d.trouble, d.backOff = t, 0
	}
	if t == none {
		return longest
	}
	if waited || d.backOff == 0 {
		d.backOff = min(max(2*d.backOff, firstBackOff), longest)
	}
	return d.backOff
}
