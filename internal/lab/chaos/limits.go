package chaos

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"
)

// What a daemon may cost, whatever happens. The looks are those of internal/mirror:
// a burst, and then some in each second.
const (
	mostMemory      = 16 << 20
	mostThreads     = 16 // and one for each processor
	mostDescriptors = 32
	lookBurst       = 50
	looksPerSecond  = 5
)

// A look opens one or two descriptors for a moment.
const forAMoment = 2

// mostGrowth is what Go's heap and its stacks may differ by from one minute to
// another, and no leak.
const mostGrowth = 3 << 20

// check is for daemons that followed one another.
func (c Cost) check(took time.Duration, daemons int) error {
	var errs []error
	limit := func(what string, got, most int) {
		if got > most {
			errs = append(errs, fmt.Errorf("%s: %d, and at most %d would do", what, got, most))
		}
	}
	limit("bytes of memory", int(c.Memory), mostMemory)
	limit("threads", c.Threads, mostThreads+runtime.NumCPU())
	limit("descriptors", c.Descriptors, mostDescriptors)
	limit(fmt.Sprintf("looks in %v", took.Round(time.Second)), c.Looks, daemons*lookBurst+looksPerSecond*int(took.Seconds()+2))
	return errors.Join(errs...)
}

// Check says what was more than a storm may cost.
func (r StormResult) Check() error {
	err := r.Cost.check(r.Took, 1)
	if r.Descriptors > r.Before+forAMoment {
		err = errors.Join(err, fmt.Errorf("descriptors: %d before the storm, %d in it", r.Before, r.Descriptors))
	}
	return err
}

// Check says what clients met that they should not, what was more than a daemon may
// cost, and what grew.
func (r SoakResult) Check() error {
	errs := []error{r.Cost.check(r.Took, 1+r.TakeOvers)}
	if err := r.Windows.check("Windows", 0); err != nil {
		errs = append(errs, err)
	}
	if err := r.Linux.check("Linux", r.Linux.InGap); err != nil {
		errs = append(errs, err)
	}
	explained := r.Containers.InGap
	if r.Containers.Broken > 0 {
		explained = 0 // a connection to Windows goes on until it ends, whatever happens to daemons
	}
	if err := r.Containers.check("containers", explained); err != nil {
		errs = append(errs, err)
	}
	if r.Late.Memory > r.Early.Memory+mostGrowth {
		errs = append(errs, fmt.Errorf("memory grows: %d bytes, and later %d", r.Early.Memory, r.Late.Memory))
	}
	if r.Late.Descriptors > r.Early.Descriptors {
		errs = append(errs, fmt.Errorf("descriptors grow: %d, and later %d", r.Early.Descriptors, r.Late.Descriptors))
	}
	return errors.Join(errs...)
}

func (t Load) check(client string, most int) error {
	if t.Lost+t.Broken <= most {
		return nil
	}
	return fmt.Errorf("from %s, %d answers were lost, %d connections broken:\n%s", client, t.Lost, t.Broken, strings.Join(t.Faults, "\n"))
}
