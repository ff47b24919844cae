// Package mirror is the daemon: it observes the kernel, decides what should be there, and
// applies the difference.
//
// The only state that it keeps and cannot read again is what it has seen of WSL's setup
// ([WSL]). Events only wake it; each pass reads everything again. So lost events, their
// order, and changes by other programs do not matter.
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

// The intervals of the daemon. The back-off is the pause after a failed pass. It doubles
// from firstBackOff to lastBackOff.
const (
	resync       = 5 * time.Minute
	firstBackOff = 10 * time.Millisecond
	lastBackOff  = 30 * time.Second
)

// These limit how often events cause a pass. A single event is handled immediately. But
// events come in groups (a new link causes five, and our own change one more), so events
// that arrive within rest after a pass share the next one. In a long storm of events,
// passesPerSecond apply after a burst. The burst is large because a user who starts
// containers should not wait.
//
// With very many rules a pass can take longer than costly. The rest then grows in
// proportion, so that passes use at most a fifth of a processor.
const (
	rest            = 5 * time.Millisecond
	costly          = 50 * time.Millisecond
	restShare       = 4
	longestRest     = time.Second // Alive is not called meanwhile
	passesPerSecond = 5
	burst           = 50
)

// Config configures a Daemon.
type Config struct {
	// Interface is the link on which Windows' localhost traffic arrives.
	Interface string
	Policy    Policy
	Log       logrus.FieldLogger
	// Publish receives the outcome of every pass. It logs its own errors; after an error
	// the loop soon makes another pass.
	Publish func(status.Snapshot) error
	// Alive is called every AliveEvery from the loop itself, so that a watchdog notices
	// when the loop hangs. 0 turns it off.
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
	trouble trouble // in the last pass
	backOff time.Duration
	// unevicted is why flows were not reset when that was last tried, at the time evicted.
	unevicted error
	evicted   time.Time
}

// kernel is what the loop does to the system. It is an interface so that tests can check
// the loop's timing without a system.
type kernel interface {
	// observe reads what is there; fresh means to read everything again and use nothing
	// that was read before.
	observe(fresh bool) (Observed, error)
	// apply makes the changes that lead from the observation to the desired state.
	apply(Observed, Desired) error
	// show tells other daemons whether this one serves, and wakes the loop when the daemon
	// that owns the table ends; 0: there is no other.
	show(serves bool, owner uint32) error
	// evict resets the flows that match.
	evict(func(conntrack.Flow) bool) error
	// undo removes everything that apply has installed.
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

// Run keeps the kernel in the desired state until ctx is done, and then undoes its changes.
// Errors of the kernel do not end it: it backs off and retries, and it also retries
// whenever something changes. It returns the error of undoing.
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
		// At least once per resync, however often events come: some changes cause no event.
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

// processorTime is the processor time that this process has used. Unlike a clock, it does
// not advance while the process is stopped or waits for a processor.
func processorTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// pending takes the waiting requests, so that one pass answers them all.
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

// Refresh returns when a new pass has read the kernel and published the result, or when ctx
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

// rounds limits how often one pass observes and applies. The longest case takes three
// rounds: install a table, open the bridges that it guards, send packets to them.
const rounds = 4

// A change is the outcome of a pass.
type change struct {
	obs  Observed
	want Desired
	// seen says that the kernel was observed, serves that the table is ours.
	seen, serves bool
	// before and after are our table before and after the pass; without chains if there was
	// none.
	before, after nft.Table
	err           error
}

// change observes and applies until nothing is left to do. It retries a failure once, after
// observing again: the kernel may have changed, or removed what was there.
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

// pass observes and applies once, and returns how long to wait for the next pass if no
// event comes first.
func (d *Daemon) pass(fresh bool) time.Duration {
	// Subscribe before reading. Otherwise a change between the two is missed.
	err := d.watcher.Subscribe()
	c := d.change(fresh)
	err = errors.Join(err, c.err)
	var unshown error
	if c.seen { // otherwise nothing has changed
		var owner uint32
		if c.want.State == status.Standby {
			owner = c.obs.Table.Owner
		}
		unshown = d.kernel.show(c.serves, owner)
	} else {
		c.serves = d.last.Table.Installed
	}
	unpublished := d.publish(c, err)
	// Evict after installing the rules: a flow that restarts earlier could meet the old
	// rules again. Evict after the last of several rounds: the first table of a daemon that
	// takes over sends nothing past a proxy, and would make us reset connections that the
	// next table keeps. And evict after publishing: it takes ten milliseconds and more,
	// because the kernel walks the connections of all network namespaces.
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
		// Nothing depends on the beacon, and it may never succeed.
		return d.pause(noBeacon, resync, fresh)
	case unpublished != nil:
		return d.pause(notPublished, lastBackOff, fresh)
	case told != (d.unevicted != nil):
		return firstBackOff // to update the status
	case len(d.last.Degraded) > 0:
		// Modules may load late when WSL boots, and no event reports that.
		return d.pause(degraded, resync, fresh)
	}
	return d.pause(none, resync, fresh)
}

// evict resets the flows that the new table affects. If the last attempt failed, it checks
// all flows, as if there had been no table.
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

// A trouble is the reason for an early next pass.
type trouble int

const (
	none trouble = iota
	failed
	unfinished
	noBeacon
	notPublished
	degraded
)

// pause returns how long to wait for the next pass. It grows, up to longest, while the
// trouble stays the same; a new trouble starts over, so a daemon that has long failed to
// publish is not late for an election. It grows only when the pause has passed, not with
// each event: several events at once are not a long trouble.
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
