package chaos_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
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
	drawn := rand.Uint64N(1_000_000)
	for _, test := range []chaos.Config{
		{Seed: 1, Direct: false},
		{Seed: 301, Direct: true}, // left a rule behind once
		{Seed: drawn, Direct: false},
		{Seed: drawn, Direct: true},
	} {
		t.Run(fmt.Sprintf("seed %d, direct %v", test.Seed, test.Direct), func(t *testing.T) {
			t.Parallel()
			test.Program, test.Steps = program, 120
			res, err := chaos.Run(t.Context(), test)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d faults in %d bursts, %d ways asked", res.Steps, res.Bursts, res.Asked)
		})
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
	// 50 at once, and then 5 a second: the limits of internal/mirror.
	if most := 50 + 5*int(res.Took.Seconds()+2); res.Looks > most {
		t.Errorf("%d looks in %v, more than %d", res.Looks, res.Took, most)
	}
	if res.Memory >= 16<<20 {
		t.Errorf("%d bytes resident", res.Memory)
	}
	if res.Descriptors > res.Before+2 { // a look opens one for a moment
		t.Errorf("%d descriptors before, %d at most", res.Before, res.Descriptors)
	}
}

// Clients notice nothing while containers come and go and daemons take over.
func TestSoak(t *testing.T) {
	labtest.NeedRoot(t)
	t.Parallel()
	res, err := chaos.Soak(t.Context(), chaos.Config{Seed: 1, Direct: true, Program: program}, 45*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", res)
	if w := res.Windows; w.Lost+w.Broken > 0 {
		t.Errorf("from Windows: %d answers lost, %d connections broken: %q", w.Lost, w.Broken, w.Faults)
	}
	// Every other daemon is killed, and hands over nothing. Until the next one has
	// its table, what a container sends to a client in Linux goes by way of Windows,
	// which ends a connection.
	if l := res.Linux; l.Lost+l.Broken > 2*(res.TakeOvers/2) {
		t.Errorf("from Linux: %d answers lost, %d connections broken: %q", l.Lost, l.Broken, l.Faults)
	}
	if res.Windows.Answers < 500 || res.Linux.OnKept < 100 || res.Changes < 50 || res.TakeOvers < 3 {
		t.Errorf("hardly anything was tested: %+v", res)
	}
}
