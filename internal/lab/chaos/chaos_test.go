package chaos_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/chaos"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
	"github.com/wslmirror/wslmirror/systemd"
)

func TestMain(m *testing.M) {
	sandbox.Enter()
	code := m.Run()
	if built != nil {
		built.Close()
	}
	os.Exit(code)
}

// within is how soon all must be as it should, on a machine that may be busy.
var within = lab.Scaled(15 * time.Second)

// built is what build has made, nil if it was not called. holder is the same program with
// the rights of the holder's unit.
var built, holder *sandbox.Program

// build builds the real wslmirror, once, to be run with the rights of the service.
// With the race detector in it, its memory and its times would say nothing.
var build = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "wslmirror-chaos-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "wslmirror")
	if err := labtest.Build(path, "wslmirror"); err != nil {
		return err
	}
	if built, err = sandbox.New(path); err != nil {
		return err
	}
	if built.Filter, err = sandbox.OfUnit(systemd.Unit); err != nil {
		return err
	}
	h := *built
	holder, h.Capability = &h, "net_bind_service"
	h.Filter, err = sandbox.OfUnit(systemd.HoldUnit)
	return err
})

// program is what build makes, for a test that has a bench.
func program(t *testing.T) *sandbox.Program {
	t.Helper()
	labtest.NeedRoot(t)
	if err := build(); err != nil {
		t.Fatal(err)
	}
	return built
}

// After any sequence of faults all comes back. That it does within a second is for
// "make chaos" to say, on a machine that has nothing else to do. A miss says how to replay
// it.
func TestChaos(t *testing.T) {
	wslmirror := program(t)
	t.Parallel()
	drawn := rand.Uint64N(1_000_000)
	faults := make([][]string, 4)
	t.Run("in", func(t *testing.T) { // returns when the parallel ones have
		for i, test := range []chaos.Config{
			{Seed: 1, Mode: lab.Consomme, Direct: false},
			{Seed: 301, Direct: true}, // left a rule behind once
			{Seed: drawn, Direct: false},
			{Seed: drawn, Mode: lab.MirroredHAL, Direct: true},
		} {
			t.Run(fmt.Sprintf("seed %d, direct %v", test.Seed, test.Direct), func(t *testing.T) {
				t.Parallel()
				test.Program, test.Holder, test.Steps, test.Within = wslmirror, holder, 120, within
				test.Told = func(_ uint64, _ int, fault string) { faults[i] = append(faults[i], fault) }
				res, err := chaos.Run(t.Context(), test)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%d faults in %d bursts, %d ways asked, %d ports held", res.Steps, res.Bursts, res.Asked, res.Held)
				if test.Seed == 1 && res.Held == 0 {
					t.Error("no port was held, so that nothing was tested of holders")
				}
			})
		}
	})
	// A seed replays: what comes next depends on it alone, not on time, nor on what
	// the daemons do meanwhile.
	if !t.Failed() && !slices.Equal(faults[2], faults[3]) {
		t.Errorf("seed %d has had two sequences of faults:\n%q\n%q", drawn, faults[2], faults[3])
	}
}

// What one look at a time costs is bounded however many events there are.
func TestStorm(t *testing.T) {
	wslmirror := program(t)
	t.Parallel()
	const events, over = 25_000, 15 * time.Second // as in 100,000 a minute
	res, err := chaos.Storm(t.Context(), chaos.Config{Seed: 1, Direct: true, Program: wslmirror, Within: within}, events, over)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", res)
	if err := res.Check(); err != nil {
		t.Error(err)
	}
}

// Clients notice nothing while containers come and go and daemons take over, and a
// daemon does not grow. With the storm it is three minutes.
func TestSoak(t *testing.T) {
	wslmirror := program(t)
	t.Parallel()
	res, err := chaos.Soak(t.Context(), chaos.Config{Seed: 1, Direct: true, Program: wslmirror, Within: within}, 165*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", res)
	if err := res.Check(); err != nil {
		t.Error(err)
	}
	if res.Windows.Answers < 2000 || res.Linux.OnKept < 400 || res.Containers.OnKept < 400 || res.Changes < 200 || res.TakeOvers < 8 || res.Early.Memory == 0 {
		t.Errorf("hardly anything was tested: %+v", res)
	}
}
