package windows

import (
	"context"
	"sync"
)

// Ports are what Windows tells of the ports of one protocol.
type Ports struct {
	Excluded  []Range
	Dynamic   Range // zero: unknown
	Listeners []Listener
	// Errors are those of Excluded, Dynamic and Listeners, nil where the answer
	// is known.
	ExcludedErr, DynamicErr, ListenersErr error
}

// Ask asks for all of them at once, so that it takes no longer than the slowest.
func Ask(ctx context.Context, proto string) (p Ports) {
	var asking sync.WaitGroup
	asking.Go(func() { p.Excluded, p.ExcludedErr = Excluded(ctx, proto) })
	asking.Go(func() { p.Dynamic, p.DynamicErr = Dynamic(ctx, proto) })
	asking.Go(func() { p.Listeners, p.ListenersErr = Listeners(ctx, proto) })
	asking.Wait()
	return p
}

// Problems are the errors, in their order.
func (p Ports) Problems() (errs []error) {
	for _, err := range []error{p.ExcludedErr, p.DynamicErr, p.ListenersErr} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}
