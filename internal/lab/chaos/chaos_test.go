package chaos_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab/chaos"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// program is the real wslmirror: with the race detector in it, its memory and
// its times would say nothing.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "wslmirror-chaos-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "wslmirror")
		build := exec.Command("go", "build", "-o", program, "../../../cmd/wslmirror")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build wslmirror: %v: %s\n", err, out)
			return 1
		}
		return m.Run()
	}())
}

// After any sequence of faults all is as it should within a second. A miss says
// how to replay it.
func TestChaos(t *testing.T) {
	labtest.NeedRoot(t)
	t.Parallel()
	drawn := rand.Uint64N(1_000_000)
	faults := make([][]string, 4)
	t.Run("in", func(t *testing.T) { // returns when the parallel ones have
		for i, test := range []chaos.Config{
			{Seed: 1, Direct: false},
			{Seed: 301, Direct: true}, // left a rule behind once
			{Seed: drawn, Direct: false},
			{Seed: drawn, Direct: true},
		} {
			t.Run(fmt.Sprintf("seed %d, direct %v", test.Seed, test.Direct), func(t *testing.T) {
				t.Parallel()
				test.Program, test.Steps = program, 120
				test.Told = func(_ uint64, _ int, fault string) { faults[i] = append(faults[i], fault) }
				res, err := chaos.Run(t.Context(), test)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%d faults in %d bursts, %d ways asked", res.Steps, res.Bursts, res.Asked)
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
	labtest.NeedRoot(t)
	t.Parallel()
	const events, over = 25_000, 15 * time.Second // as in 100,000 a minute
	res, err := chaos.Storm(t.Context(), chaos.Config{Seed: 1, Direct: true, Program: program}, events, over)
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
	labtest.NeedRoot(t)
	t.Parallel()
	res, err := chaos.Soak(t.Context(), chaos.Config{Seed: 1, Direct: true, Program: program}, 165*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", res)
	if err := res.Check(); err != nil {
		t.Error(err)
	}
	if res.Windows.Answers < 2000 || res.Linux.OnKept < 400 || res.Changes < 200 || res.TakeOvers < 8 || res.Early.Memory == 0 {
		t.Errorf("hardly anything was tested: %+v", res)
	}
}
