package netwatch

import (
	"errors"
	"fmt"
	"time"
)

// A Source is one kind of event to wait for.
type Source struct {
	Name string
	// Open subscribes. After it has returned, no event is lost.
	Open func() (Subscription, error)
}

// A Subscription is an open Source.
type Subscription interface {
	// Wait blocks until something has happened. It returns an error if the subscription
	// is broken or closed.
	Wait() error
	Close() error
}

// A Watcher turns the events of many sources into one: "look again".
type Watcher struct {
	// Broken, if set, is called when a subscription has ended by itself. The next call
	// of Subscribe opens it again.
	Broken func(source string, err error)

	wake    chan struct{}
	closing chan struct{}
	sources []source
}

// A source is a Source and its state.
type source struct {
	Source
	open  Subscription // nil if not subscribed
	ended chan error   // receives why the subscription ended
	// pause is how long the end of a subscription is held back if no event came before
	// it. Otherwise a source that always breaks at once would cause a busy loop.
	pause time.Duration
}

// The pause doubles from the first value up to the last.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = 30 * time.Second
)

// NewWatcher returns a Watcher that is not subscribed to anything yet.
func NewWatcher(sources ...Source) *Watcher {
	w := &Watcher{wake: make(chan struct{}, 1), closing: make(chan struct{})}
	for _, s := range sources {
		w.sources = append(w.sources, source{Source: s})
	}
	return w
}

// C delivers one value for any number of events since the last value was received.
func (w *Watcher) C() <-chan struct{} { return w.wake }

// Wake makes C deliver a value, like an event.
func (w *Watcher) Wake() {
	select {
	case w.wake <- struct{}{}:
	default: // a wake is pending already and covers this event too
	}
}

// Subscribe opens every source that is not open: all of them the first time, later
// those that broke. Call it *before* each reading of the state, so that no change in
// between is missed. It opens sockets in the calling goroutine, so in the network
// namespace of the caller's thread.
//
// It opens what it can and returns the errors of the rest.
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

// Close ends all subscriptions. A closed Watcher cannot be used again.
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
