package netwatch

import (
	"errors"
	"fmt"
	"time"
)

// A Source is one thing that can be waited for.
type Source struct {
	Name string
	// Open subscribes. From the moment it returns no event is lost.
	Open func() (Subscription, error)
}

// A Subscription is an open Source.
type Subscription interface {
	// Wait blocks until something has happened, or until the subscription is
	// broken or closed, and then returns an error.
	Wait() error
	Close() error
}

// A Watcher turns the events of many sources into one: "look again".
type Watcher struct {
	// Broken, if set, is told when a subscription ended by itself. The next
	// call of Subscribe opens it again.
	Broken func(source string, err error)

	wake    chan struct{}
	closing chan struct{}
	sources []source
}

// A source is a Source and what has become of it.
type source struct {
	Source
	open  Subscription // nil where not subscribed
	ended chan error   // delivers why the subscription ended
	// pause is how long the subscription's end is kept back if it came before any
	// event, so that one which always breaks at once makes no busy loop.
	pause time.Duration
}

// The pause is doubled from the first value to the last.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = 30 * time.Second
)

// NewWatcher makes a Watcher that is not subscribed to anything yet.
func NewWatcher(sources ...Source) *Watcher {
	w := &Watcher{wake: make(chan struct{}, 1), closing: make(chan struct{})}
	for _, s := range sources {
		w.sources = append(w.sources, source{Source: s})
	}
	return w
}

// C delivers one value for any number of events since the last one was taken.
func (w *Watcher) C() <-chan struct{} { return w.wake }

// Wake makes C deliver, as an event would.
func (w *Watcher) Wake() {
	select {
	case w.wake <- struct{}{}:
	default: // a wake is pending already, and it will see this event too
	}
}

// Subscribe opens every source that is not open: all of them the first time,
// later those that broke. Call it *before* each reading of the state, so that
// nothing can change unseen between the two. It opens sockets in the calling
// goroutine, hence in the network namespace of the caller's thread.
//
// It opens what it can and returns the errors of what it cannot.
func (w *Watcher) Subscribe() error {
	var errs []error
	for i := range w.sources {
		src := &w.sources[i]
		if src.open != nil {
			select {
			case err := <-src.ended:
				src.open.Close()
				src.open = nil
				if w.Broken != nil {
					w.Broken(src.Name, err)
				}
			default:
				continue
			}
		}
		sub, err := src.Open()
		if err != nil {
			errs = append(errs, fmt.Errorf("watch %s: %w", src.Name, err))
			continue
		}
		src.open, src.ended = sub, make(chan error, 1)
		go w.wait(src, sub, src.ended)
	}
	return errors.Join(errs...)
}

func (w *Watcher) wait(src *source, sub Subscription, ended chan<- error) {
	err := sub.Wait()
	if err != nil {
		src.pause = min(max(2*src.pause, firstPause), lastPause)
		select {
		case <-time.After(src.pause):
		case <-w.closing:
		}
	} else {
		src.pause = 0
	}
	for ; err == nil; err = sub.Wait() {
		w.Wake()
	}
	ended <- err
	w.Wake() // events may be lost until Subscribe
}

// Close ends all subscriptions. A closed Watcher is not used again.
func (w *Watcher) Close() {
	for i := range w.sources {
		if src := &w.sources[i]; src.open != nil {
			src.open.Close()
		}
	}
	select {
	case <-w.closing:
		return
	default:
		close(w.closing)
	}
	for i := range w.sources {
		if src := &w.sources[i]; src.open != nil {
			<-src.ended
			src.open = nil
		}
	}
}
