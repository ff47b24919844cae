package mirror

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/conntrack"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
)

// A fake is a kernel whose behaviour a test sets. It records what the loop did and
// published.
type fake struct {
	mu         sync.Mutex
	link       netwatch.Link
	observeErr error
	applyErr   error
	failures   int // how many calls of apply fail
	publishErr error
	showErr    error
	evictErr   error
	theirs     bool // another daemon owns the table; that shows only after an attempt to install it
	tried      bool
	takes      time.Duration // how long an observation takes

	observed  []time.Time
	published []status.Snapshot
	signs     int // calls of Alive
	fresh     int // observations with fresh set
	evicted   int
	shown     []bool // what show reported: whether this daemon serves
	undone    bool
	table     nft.Table // ours, if it contains chains
	wanted    nft.Table // the last one
}

func (k *fake) observe(fresh bool) (Observed, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if fresh {
		k.fresh++
	}
	k.observed = append(k.observed, time.Now())
	takes := k.takes
	k.mu.Unlock()
	time.Sleep(takes)
	k.mu.Lock()
	o := Observed{Host: k.link, Ours: len(k.table.Chains) > 0}
	o.Table = nft.OurTable{Present: o.Ours, Table: k.table}
	if k.theirs && k.tried {
		o.Table = nft.OurTable{Present: true, Owner: 1}
	}
	return o, k.observeErr
}

func (k *fake) apply(_ Observed, want Desired) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tried = true
	if want.Table != nil {
		k.wanted = *want.Table
	}
	if k.failures > 0 {
		k.failures--
		return unix.ENOBUFS
	}
	return k.applyErr
}

func (k *fake) show(serves bool, _ uint32) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.shown = append(k.shown, serves)
	return k.showErr
}

func (k *fake) evict(func(conntrack.Flow) bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.evicted++
	return k.evictErr
}

func (k *fake) undo() error {
	k.undone = true
	return nil
}

func (k *fake) publish(s status.Snapshot) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.published = append(k.published, s)
	return k.publishErr
}

func (k *fake) alive() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.signs++
}

// set changes how the kernel behaves.
func (k *fake) set(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
}

// after lets time pass and returns what was observed and published by then.
func (k *fake) after(d time.Duration) (observed []time.Time, published []status.Snapshot) {
	time.Sleep(d)
	synctest.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.observed), slices.Clone(k.published)
}

// loop runs a Daemon on k in a bubble of fake time while test runs.
func loop(t *testing.T, k *fake, test func(t *testing.T, d *Daemon)) {
	synctest.Test(t, func(t *testing.T) {
		log := logrus.New()
		log.SetOutput(io.Discard)
		d := newDaemon(Config{
			Interface: "loopback0", Log: log, Publish: k.publish,
			Alive: k.alive, AliveEvery: 30 * time.Second,
		}, netwatch.NewWatcher(), k)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		synctest.Wait()
		test(t, d)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if !k.undone {
			t.Error("stopped without undoing")
		}
	})
}

func last[T any](s []T) T { return s[len(s)-1] }

func TestLooksAtOnceAndThenOnlyAtResync(t *testing.T) {
	k := new(fake)
	loop(t, k, func(t *testing.T, _ *Daemon) {
		if seen, _ := k.after(0); len(seen) != 1 {
			t.Fatalf("%d observations at the start, want 1", len(seen))
		}
		seen, published := k.after(3*resync + time.Second)
		if len(seen) != 4 {
			t.Errorf("%d observations after three resyncs, want 4", len(seen))
		}
		if len(published) != len(seen) {
			t.Errorf("published %d times, want %d", len(published), len(seen))
		}
	})
}

func TestEventIsSeenAtOnce(t *testing.T) {
	k := new(fake)
	loop(t, k, func(t *testing.T, d *Daemon) {
		k.after(time.Minute)
		k.set(func() { k.link = netwatch.Link{Name: "loopback0", Index: 9} })
		event := time.Now()
		d.watcher.Wake()
		seen, published := k.after(0)
		if got := last(seen); !got.Equal(event) {
			t.Errorf("observed %v after the event", got.Sub(event))
		}
		s := last(published)
		if s.State != status.Active || s.Interface.Index != 9 || !s.Since.Equal(event) {
			t.Errorf("published %+v", s)
		}
	})
}

func TestEventsDuringAPassAreOnePass(t *testing.T) {
	k := &fake{takes: time.Second}
	loop(t, k, func(t *testing.T, d *Daemon) {
		for range 100 {
			d.watcher.Wake()
			time.Sleep(time.Millisecond)
		}
		if seen, _ := k.after(time.Minute); len(seen) != 2 {
			t.Errorf("%d observations, want the first and one for all the events", len(seen))
		}
	})
}

func TestHandfulOfEventsIsTwoPasses(t *testing.T) {
	k := new(fake)
	loop(t, k, func(t *testing.T, d *Daemon) {
		k.after(time.Second)
		for range 5 {
			d.watcher.Wake()
			k.after(rest / 10)
		}
		if seen, _ := k.after(time.Second); len(seen) != 3 {
			t.Errorf("%d observations; want one at the start, one at the first event, one for the rest", len(seen))
		}
	})
}

func TestStormIsBounded(t *testing.T) {
	k := new(fake)
	loop(t, k, func(t *testing.T, d *Daemon) {
		const seconds = 10
		for range seconds * 1000 {
			d.watcher.Wake()
			time.Sleep(time.Millisecond)
		}
		event := time.Now()
		d.watcher.Wake()
		seen, _ := k.after(time.Second)
		if len(seen) < seconds*passesPerSecond {
			t.Errorf("%d observations in %d s of storm: the storm did not reach the limit", len(seen), seconds)
		}
		if most := burst + (seconds+1)*passesPerSecond; len(seen) > most {
			t.Errorf("%d observations in %d s of storm, want at most %d", len(seen), seconds, most)
		}
		if last(seen).Before(event) {
			t.Error("the last event was never looked at")
		}
	})
}

func TestFailureBacksOffAndRecovers(t *testing.T) {
	for name, k := range map[string]*fake{
		"observe": {observeErr: errors.New("broken")},
		"apply":   {applyErr: errors.New("broken")},
	} {
		t.Run(name, func(t *testing.T) {
			loop(t, k, func(t *testing.T, _ *Daemon) {
				seen, published := k.after(time.Hour)
				if s := last(published); s.State != status.Error || s.Reason != "broken" || s.Table.Installed {
					t.Errorf("published %+v", s)
				}
				if n := len(published); n < 110 || n > 140 || len(seen) > 2*n {
					t.Errorf("%d passes in an hour with %d looks, want about one in %v", n, len(seen), lastBackOff)
				}
				if pause := published[1].Updated.Sub(published[0].Updated); pause != firstBackOff {
					t.Errorf("second try after %v, want %v", pause, firstBackOff)
				}
				k.set(func() { k.observeErr, k.applyErr = nil, nil })
				seen, published = k.after(lastBackOff)
				if s := last(published); s.State != status.Waiting || s.Reason != "" {
					t.Errorf("after recovery published %+v", s)
				}
				// Then there is no pass until the resync.
				recovered := last(seen)
				seen, _ = k.after(time.Until(recovered.Add(resync - time.Second)))
				if !last(seen).Equal(recovered) {
					t.Errorf("looked again %v after it had recovered", last(seen).Sub(recovered))
				}
			})
		})
	}
}

// A daemon that has long failed to publish, and so makes few passes, is not late when
// another one ends. That one's socket may be gone while its table is still there, or its
// table may be there before its beacon.
func TestOtherTroubleIsLookedAtSoon(t *testing.T) {
	for name, trouble := range map[string]func(k *fake, on bool){
		"a change fails": func(k *fake, on bool) {
			k.applyErr = nil
			if on {
				k.applyErr = nft.ErrOwned
			}
		},
		"no beacon": func(k *fake, on bool) {
			k.showErr = nil
			if on {
				k.showErr = unix.ECONNREFUSED
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := &fake{link: netwatch.Link{Name: "loopback0", Index: 7}, publishErr: errors.New("read-only file system")}
			loop(t, k, func(t *testing.T, d *Daemon) {
				k.after(2 * time.Minute)
				k.set(func() { trouble(k, true) })
				d.watcher.Wake()
				before, _ := k.after(time.Millisecond)
				k.set(func() { trouble(k, false) })
				if seen, _ := k.after(2*firstBackOff + rest); len(seen) == len(before) {
					t.Error("looks no sooner than before")
				}
			})
		})
	}
}

// A snapshot that could not be published is soon published again, and the state is not an
// error.
func TestUnpublishedIsPublishedAgain(t *testing.T) {
	k := &fake{publishErr: errors.New("broken")}
	loop(t, k, func(t *testing.T, _ *Daemon) {
		seen, published := k.after(time.Hour)
		if s := last(published); s.State != status.Waiting || s.Reason != "" {
			t.Errorf("published %+v", s)
		}
		if n := len(seen); n < 110 || n > 140 || seen[1].Sub(seen[0]) != firstBackOff {
			t.Errorf("%d tries in an hour, the second after %v", n, seen[1].Sub(seen[0]))
		}
		k.set(func() { k.publishErr = nil })
		seen, _ = k.after(lastBackOff)
		if again, _ := k.after(resync - lastBackOff); len(again) != len(seen) {
			t.Error("looks again after it was published")
		}
	})
}

func TestLostElectionIsStandby(t *testing.T) {
	k := &fake{failures: 1, theirs: true, link: netwatch.Link{Name: "loopback0", Index: 3}}
	loop(t, k, func(t *testing.T, _ *Daemon) {
		_, published := k.after(firstBackOff)
		if s := published[0]; s.State != status.Standby || s.Reason != "" || s.Table.Installed {
			t.Errorf("published %+v", s)
		}
	})
}

func TestSignOfLifeComesFromTheLoop(t *testing.T) {
	k := new(fake)
	loop(t, k, func(t *testing.T, d *Daemon) {
		seen, _ := k.after(61 * time.Second)
		if k.signs != 2 || len(seen) != 1 {
			t.Errorf("%d signs of life and %d observations in 61 s, want 2 and 1", k.signs, len(seen))
		}
		// A loop that hangs does not call Alive.
		k.set(func() { k.takes = 10 * time.Minute })
		d.watcher.Wake()
		k.after(9 * time.Minute)
		if k.signs != 2 {
			t.Errorf("%d signs of life of a loop that hangs", k.signs-2)
		}
		k.set(func() { k.takes = 0 })
		k.after(2 * time.Minute)
		if k.signs == 2 {
			t.Error("no sign of life after it hung")
		}
	})
}

func TestRefresh(t *testing.T) {
	k := new(fake)
	loop(t, k, func(t *testing.T, d *Daemon) {
		_, published := k.after(time.Minute)
		before := len(published)
		d.Refresh(t.Context())
		if _, published = k.after(0); len(published) != before+1 {
			t.Errorf("published %d times for one request", len(published)-before)
		}
		// A few passes answer many requests at once.
		k.set(func() { k.takes = time.Second })
		before = len(published)
		for range 50 {
			go d.Refresh(t.Context())
		}
		_, published = k.after(5 * time.Second)
		if n := len(published) - before; n < 1 || n > 3 {
			t.Errorf("published %d times for 50 requests at once", n)
		}
	})
}

// Frequent requests do not prevent a fresh observation.
func TestResyncInSpiteOfRequests(t *testing.T) {
	k := new(fake)
	loop(t, k, func(t *testing.T, d *Daemon) {
		k.after(0)
		first := k.fresh
		for range 60 {
			k.after(time.Minute)
			d.Refresh(t.Context())
		}
		k.after(0)
		if n := k.fresh - first; n < 11 || n > 13 {
			t.Errorf("%d fresh observations in an hour of requests, want one in %v", n, resync)
		}
	})
}

func TestRefreshGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(Config{}, netwatch.NewWatcher(), new(fake)) // not running
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		d.Refresh(ctx)
		if ctx.Err() == nil {
			t.Error("returned before its time")
		}
	})
}

func TestInsist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, tries := time.Now(), 0
		err := insist(func() error {
			if tries++; tries < 4 {
				return unix.ENOBUFS
			}
			return nil
		}, isTransient)
		if took := time.Since(began); err != nil || tries != 4 || took != 7*firstBackOff {
			t.Errorf("%v after %d tries and %v", err, tries, took)
		}
		for errno, want := range map[unix.Errno]bool{unix.EPERM: false, unix.EINVAL: false, unix.ENOMEM: true, unix.EINTR: true} {
			began, tries = time.Now(), 0
			err := insist(func() error { tries++; return errno }, isTransient)
			if took := time.Since(began); !errors.Is(err, errno) || want != (tries > 1) || took > 2*time.Second {
				t.Errorf("%v: %v after %d tries and %v", errno, err, tries, took)
			}
		}
	})
}

// Flows are reset when there is a table that was not there before, but not when nothing has
// changed or could be changed.
func TestEvictsWhenTheTableChanges(t *testing.T) {
	k := &fake{link: netwatch.Link{Name: "loopback0", Index: 2}}
	loop(t, k, func(t *testing.T, d *Daemon) {
		look := func(what string, want int) {
			t.Helper()
			before := k.evicted
			d.watcher.Wake()
			k.after(time.Second)
			if k.evicted-before != want {
				t.Errorf("%s: evicted %d times, want %d", what, k.evicted-before, want)
			}
		}
		k.after(0)
		if k.evicted != 1 {
			t.Fatalf("evicted %d times after the first table", k.evicted)
		}
		k.set(func() { k.table = k.wanted })
		look("nothing has changed", 0)
		k.set(func() { k.link.Index = 3 })
		look("the link is another one", 1)
		k.set(func() { k.link = netwatch.Link{} })
		look("the link has gone", 0)
		k.set(func() { k.link, k.applyErr = netwatch.Link{Index: 4}, unix.ENOBUFS })
		look("it cannot be changed", 0)
	})
}

// A change that fails is retried once at once, and then with growing pauses.
func TestSecondTry(t *testing.T) {
	k := &fake{link: netwatch.Link{Name: "loopback0", Index: 2}, failures: 1}
	loop(t, k, func(t *testing.T, _ *Daemon) {
		seen, published := k.after(time.Second)
		if s := last(published); len(published) != 1 || s.State != status.Active || len(seen) != 2 || !seen[1].Equal(seen[0]) {
			t.Errorf("looked at %v, published %+v", seen, published)
		}
	})
}

// If another process has the beacon's name, the daemon retries less and less often, and no
// pass causes the next one endlessly.
func TestNoBeaconIsNoHurry(t *testing.T) {
	k := &fake{link: netwatch.Link{Name: "loopback0", Index: 2}, showErr: unix.EADDRINUSE}
	loop(t, k, func(t *testing.T, _ *Daemon) {
		if seen, published := k.after(time.Hour); len(seen) > 30 || len(seen) < 12 || last(published).State != status.Active {
			t.Errorf("%d looks in an hour", len(seen))
		}
	})
}

// A failed observation does not tell whether the table is there: other daemons are told
// nothing, and the status stays.
func TestFailedLookChangesNothing(t *testing.T) {
	k := &fake{link: netwatch.Link{Name: "loopback0", Index: 2}}
	loop(t, k, func(t *testing.T, d *Daemon) {
		k.after(0)
		k.set(func() { k.table, k.observeErr = k.wanted, unix.ENOBUFS })
		d.watcher.Wake()
		_, published := k.after(time.Second)
		if s := last(published); s.State != status.Error || !s.Table.Installed {
			t.Errorf("published %+v", s)
		}
		if !slices.Equal(k.shown, []bool{true}) {
			t.Errorf("shown %v", k.shown)
		}
	})
}

// Events do not lengthen the back-off: the next pass comes as soon after many of them.
func TestEventsDoNotLengthenThePause(t *testing.T) {
	k := &fake{link: netwatch.Link{Name: "loopback0", Index: 2}, showErr: unix.ECONNREFUSED}
	loop(t, k, func(t *testing.T, d *Daemon) {
		for range 20 {
			d.watcher.Wake()
			k.after(rest)
		}
		before, _ := k.after(0)
		if seen, _ := k.after(4 * firstBackOff); len(seen) == len(before) {
			t.Errorf("no look within %v after the last event", 4*firstBackOff)
		}
	})
}
