package labtest

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// A failing is a test that notes that it failed.
type failing struct {
	testing.TB
	failed bool
}

func (f *failing) Helper() {}

func (f *failing) Fatalf(string, ...any) {
	f.failed = true
	runtime.Goexit()
}

// What comes late is awaited, and what never comes fails the test.
func TestEventually(t *testing.T) {
	for name, test := range map[string]struct {
		after time.Duration
		fails bool
	}{
		"at once": {0, false}, "late": {Patience() / 2, false}, "never": {2 * Patience(), true},
	} {
		for what, wait := range map[string]func(testing.TB){
			"Eventually": func(tb testing.TB) {
				began := time.Now()
				Eventually(tb, name, func() bool { return time.Since(began) >= test.after })
			},
			"Receive": func(tb testing.TB) { Receive(tb, name, time.After(test.after)) },
		} {
			synctest.Test(t, func(t *testing.T) {
				f := &failing{TB: t}
				done := make(chan struct{})
				go func() {
					defer close(done)
					wait(f)
				}()
				<-done
				if f.failed != test.fails {
					t.Errorf("%s, %s: failed is %v", what, name, f.failed)
				}
			})
		}
	}
}
