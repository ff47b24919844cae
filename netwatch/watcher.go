package netwatch

import (
	"errors"
	"fmt"
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
	sources []Source
	open    []Subscription // by source; nil where not subscribed
	ended   []chan error   // by source; delivers why its subscription ended
}

// NewWatcher makes a Watcher that is not subscribed to anything yet.
func NewWatcher(sources ...Source) *Watcher {
	return &Watcher{
		wake:    make(chan struct{}, 1),
		sources: sources,
		open:    make([]Subscription, len(sources)),
		ended:   make([]chan error, len(sources)),
	}
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
	for i, src := range w.sources {
		if w.open[i] != nil {
			select {
			case err := <-w.ended[i]:
				w.open[i].Close()
				w.open[i] = nil
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
		w.open[i], w.ended[i] = sub, make(chan error, 1)
		go w.wait(sub, w.ended[i])
	}
	return errors.Join(errs...)
}

func (w *Watcher) wait(sub Subscription, ended chan<- error) {
	for {
		err := sub.Wait()
		if err != nil {
			ended <- err
		}
		w.Wake() // also when it ended: events may be lost until Subscribe
		if err != nil {
			return
		}
	}
}

// Close ends all subscriptions.
func (w *Watcher) Close() {
	for i, sub := range w.open {
		if sub != nil {
			sub.Close()
			<-w.ended[i]
			w.open[i] = nil
		}
	}
}
