package windows

import (
	"context"
	"sync"
)

// Ports are what Windows reports about the ports of one protocol.
type Ports struct {
	Excluded  []Range
	Dynamic   Range // zero: unknown
	Listeners []Listener
	// The errors of Excluded, Dynamic and Listeners, nil if the answer is known.
	ExcludedErr, DynamicErr, ListenersErr error
}

// Ask requests all of them at once, so that it takes no longer than the slowest.
func Ask(ctx context.Context, proto string) (p Ports) {
	var asking sync.WaitGroup
	asking.Go(func() { p.Excluded, p.ExcludedErr = Excluded(ctx, proto) })
	asking.Go(func() { p.Dynamic, p.DynamicErr = Dynamic(ctx, proto) })
	asking.Go(func() { p.Listeners, p.ListenersErr = Listeners(ctx, proto) })
	asking.Wait()
	return p
}

// Problems returns the errors in this order.
func (p Ports) Problems() (errs []error) {
	for _, err := range []error{p.ExcludedErr, p.DynamicErr, p.ListenersErr} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}
