package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab/chaos"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
	"github.com/wslmirror/wslmirror/systemd"
)

func runChaos(ctx context.Context, args []string, std stdio) (int, error) {
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	seed := flags.Uint64("seed", rand.Uint64N(1_000_000), "")
	steps := flags.Int("steps", 1000, "")
	path := flags.String("path", "both", "")
	worlds := flags.Int("worlds", 1, "")
	rest := flags.Duration("rest", 0, "")
	mode := modeFlag(flags)
	verbose := flags.Bool("verbose", false, "")
	program := flags.String("wslmirror", beside("wslmirror"), "")
	if err := parse(flags, args); err != nil {
		return usageExit(err, std)
	}
	var paths []bool
	switch *path {
	case "proxy":
		paths = []bool{false}
	case "direct":
		paths = []bool{true}
	case "both":
		paths = []bool{false, true}
	default:
		return exitUsage, usageError("--path: %q is none of proxy, direct, both", *path)
	}
	if *steps < 1 || *worlds < 1 {
		return exitUsage, usageError("--steps and --worlds are at least 1")
	}
	if all := *worlds * len(paths); all > mostWorlds {
		return exitUsage, usageError("--worlds: %d worlds at a time are more than %d", all, mostWorlds)
	}
	wslmirror, err := findProgram("chaos", *program)
	if err != nil {
		return exitFailure, err
	}
	holder := *wslmirror
	holder.Capability = "net_bind_service"
	if holder.Filter, err = sandbox.OfUnit(systemd.HoldUnit); err != nil {
		return exitFailure, errors.Join(err, wslmirror.Close())
	}
	told := newCounter(std.err, *steps, *verbose)
	var runs []chaos.Config
	for i := range *worlds {
		for _, direct := range paths {
			runs = append(runs, chaos.Config{Seed: *seed + uint64(i), Mode: *mode, Direct: direct, Program: wslmirror, Holder: &holder, Rest: *rest, Told: told.step})
		}
	}
	for i := range runs {
		runs[i].Steps = *steps/len(runs) + min(1, max(0, *steps%len(runs)-i))
	}
	fmt.Fprintf(std.err, "chaos with seed %d: %d faults in %d worlds\n", *seed, *steps, len(runs))
	res, err := chaosIn(ctx, runs)
	err = errors.Join(err, wslmirror.Close())
	told.finish()
	if err := printTimes(std.out, res); err != nil {
		return exitFailure, err
	}
	if err != nil {
		return exitFailure, err
	}
	return exitOK, nil
}

// mostWorlds is how many worlds have fewer than 1024 descriptors open for certain;
// google/nftables panics at more (isReadReady in its socket.go uses select(2)).
const mostWorlds = 4

// chaosIn runs worlds at the same time, until one misses.
func chaosIn(ctx context.Context, runs []chaos.Config) (all chaos.Result, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	all.Times = chaos.Times{}
	var (
		mu      sync.Mutex
		running sync.WaitGroup
		errs    []error
	)
	for _, cfg := range runs {
		if cfg.Steps == 0 {
			continue
		}
		running.Go(func() {
			res, err := chaos.Run(ctx, cfg)
			mu.Lock()
			defer mu.Unlock()
			all.Add(res)
			if err != nil && (len(errs) == 0 || !errors.Is(err, context.Canceled)) {
				errs = append(errs, err)
				cancel()
			}
		})
	}
	running.Wait()
	return all, errors.Join(errs...)
}

// width is that of a fault's name.
const width = 40

// printTimes prints how long it took to heal.
func printTimes(out io.Writer, res chaos.Result) error {
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	name := func(s string) string { return fmt.Sprintf("%-*s", width, s) }
	fmt.Fprintf(t, "%s\tcount\tmedian\tp99\tmax\t\n", name("healed in ms, after"))
	row := func(fault string, d []time.Duration) {
		ms := func(q float64) float64 { return float64(chaos.Quantile(d, q).Microseconds()) / 1000 }
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%.1f\t%.1f\t\n", name(fault), len(d), ms(0.5), ms(0.99), ms(1))
	}
	for _, fault := range chaos.Faults() {
		if d := res.Times[fault]; len(d) > 0 {
			row(fault, d)
		}
	}
	if all := res.Times.All(); len(all) > 0 {
		row("any of these", all)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%d faults in %d bursts; %d ways were asked; %d times a port was held\n", res.Steps, res.Bursts, res.Asked, res.Held)
	return err
}

// A counter tells how far the faults of all worlds have come.
type counter struct {
	w       io.Writer
	goal    int
	verbose bool
	line    bool // lines may be written over

	mu   sync.Mutex
	n    int
	told time.Time
}

// tellEvery is how often it tells where it cannot write over what it told.
const tellEvery = 30 * time.Second

func newCounter(w io.Writer, goal int, verbose bool) *counter {
	return &counter{w: w, goal: goal, verbose: verbose, line: isTerminal(w) && !verbose, told: time.Now()}
}

func (c *counter) step(seed uint64, step int, fault string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	switch {
	case c.verbose:
		fmt.Fprintf(c.w, "seed %d step %d: %s\n", seed, step, fault)
	case c.line:
		fmt.Fprintf(c.w, "\r\x1b[K%d of %d: %s", c.n, c.goal, fault)
	case time.Since(c.told) >= tellEvery:
		c.told = time.Now()
		fmt.Fprintf(c.w, "%d of %d\n", c.n, c.goal)
	}
}

func (c *counter) finish() {
	if c.line {
		fmt.Fprint(c.w, "\r\x1b[K")
	}
}
