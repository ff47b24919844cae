package netwatch

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// fakeSource is a Source whose events come from the test.
type fakeSource struct {
	events  chan error // nil: something happened; else the subscription ends
	openErr error
	opened  int
	closed  int
}

func (f *fakeSource) source(name string) Source {
	return Source{Name: name, Open: func() (Subscription, error) {
		if f.openErr != nil {
			return nil, f.openErr
		}
		f.opened++
		f.events = make(chan error, 10)
		return fakeSubscription{f, f.events}, nil
	}}
}

type fakeSubscription struct {
	f      *fakeSource
	events chan error
}

var errClosed = errors.New("closed")

func (s fakeSubscription) Wait() error {
	err, ok := <-s.events
	if !ok {
		return errClosed
	}
	return err
}

func (s fakeSubscription) Close() error {
	s.f.closed++
	close(s.events)
	return nil
}

// woken reports whether w delivers a value, and receives it.
func woken(w *Watcher) bool {
	synctest.Wait()
	select {
	case <-w.C():
		return true
	default:
		return false
	}
}

func TestWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a, b fakeSource
		var broken []string
		w := NewWatcher(a.source("a"), b.source("b"))
		w.Broken = func(source string, err error) { broken = append(broken, source+": "+err.Error()) }
		defer w.Close()
		if err := w.Subscribe(); err != nil {
			t.Fatal(err)
		}
		if woken(w) {
			t.Error("woken by nothing")
		}

		for range 5 {
			a.events <- nil
			b.events <- nil
		}
		if !woken(w) {
			t.Error("not woken by events")
		}
		if woken(w) {
			t.Error("woken twice by events that came together")
		}

		// A source that ends also wakes, because events may be lost from then on.
		a.events <- errors.New("overrun")
		if !woken(w) {
			t.Error("not woken by the end of a source")
		}
		if err := w.Subscribe(); err != nil {
			t.Fatal(err)
		}
		if a.opened != 2 || a.closed != 1 || b.opened != 1 {
			t.Errorf("a opened %d and closed %d times, b opened %d times; want 2, 1, 1", a.opened, a.closed, b.opened)
		}
		if len(broken) != 1 || broken[0] != "a: overrun" {
			t.Errorf("told of %q", broken)
		}
		a.events <- nil
		if !woken(w) {
			t.Error("not woken by a source that was opened again")
		}
	})
}

func TestWatcherOpensWhatItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := fakeSource{openErr: errors.New("no such family")}, fakeSource{}
		w := NewWatcher(a.source("a"), b.source("b"))
		defer w.Close()
		err := w.Subscribe()
		if err == nil || err.Error() != "watch a: no such family" {
			t.Errorf("Subscribe: %v", err)
		}
		b.events <- nil
		if !woken(w) {
			t.Error("not woken by the source that could be opened")
		}
		a.openErr = nil
		if err := w.Subscribe(); err != nil || a.opened != 1 {
			t.Errorf("second Subscribe: %v, a opened %d times", err, a.opened)
		}
	})
}

// A source that opens but breaks at once is opened again with growing pauses. The
// pauses are reset once it has worked.
func TestWatcherBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a fakeSource
		w := NewWatcher(a.source("a"))
		defer w.Close()
		began, woken := time.Now(), 0
		for time.Since(began) < time.Hour {
			if err := w.Subscribe(); err != nil {
				t.Fatal(err)
			}
			if a.opened > woken {
				woken = a.opened
				a.events <- errors.New("no such thing")
			}
			<-w.C()
		}
		if a.opened < 110 || a.opened > 140 {
			t.Errorf("opened %d times in an hour, want about one in %v", a.opened, lastPause)
		}
		w.Subscribe()
		a.events <- nil
		<-w.C()
		a.events <- errors.New("overrun")
		broke := time.Now()
		if <-w.C(); time.Since(broke) != 0 {
			t.Errorf("told of the end after %v", time.Since(broke))
		}
	})
}

func TestWatcherClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a fakeSource
		w := NewWatcher(a.source("a"))
		if err := w.Subscribe(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		w.Close()
		time.Sleep(time.Second) // a goroutine left behind would fail the bubble
		if a.closed != 1 {
			t.Errorf("closed %d times", a.closed)
		}
	})
}
