package mirror

import (
	"bytes"
	"flag"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/netwatch"
)

var cycles = flag.Int("cycles", 2000, "how often TestNothingLeaks installs and removes the table")

// held counts what a process can leak.
type held struct {
	descriptors, goroutines int
	sockets                 int // netlink and unix sockets in the network namespace
	heap                    uint64
}

func holds(t *testing.T) (h held) {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []string{"netlink", "unix"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + list)
		if err != nil {
			t.Fatal(err)
		}
		h.sockets += bytes.Count(b, []byte("\n"))
	}
	h.descriptors, h.goroutines, h.heap = len(fds), runtime.NumGoroutine(), m.HeapAlloc
	return h
}

// The table comes and goes, and sometimes all sockets are closed with it, as after an
// error. Nothing must be left over.
func TestNothingLeaks(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	err := b.WSL.Do(func() error {
		log := logrus.New()
		log.SetOutput(io.Discard)
		s := newSystem("loopback0", Policy{Repair: true, Direct: true}, log, func() {})
		pass := func(present bool) {
			t.Helper()
			obs, err := s.observe(false)
			if err != nil {
				t.Fatal(err)
			}
			if !present {
				obs.Host = netwatch.Link{}
			}
			if err := s.apply(obs, decide(obs, Policy{Repair: true, Direct: true})); err != nil {
				t.Fatal(err)
			}
		}
		run := func(n int) {
			for i := range n {
				pass(true)
				pass(false)
				if i%100 == 0 {
					s.observer.close()
					if err := s.lease.release(); err != nil {
						t.Fatal(err)
					}
				}
			}
			pass(true)
		}
		run(*cycles / 10) // until everything that is kept permanently exists
		before, began := holds(t), time.Now()
		run(*cycles)
		took := time.Since(began)
		after := holds(t)
		t.Logf("%d cycles, %v each; before %+v, after %+v", *cycles, took/time.Duration(*cycles), before, after)
		if after.descriptors > before.descriptors || after.goroutines > before.goroutines || after.sockets > before.sockets || after.heap > before.heap+1<<20 {
			t.Errorf("before %+v, after %+v", before, after)
		}
		return s.undo()
	})
	if err != nil {
		t.Fatal(err)
	}
}
