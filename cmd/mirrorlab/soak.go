package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab/chaos"
)

// The storm with which a soak begins.
const (
	stormEvents = 100_000
	stormOver   = time.Minute
)

func runSoak(ctx context.Context, args []string, std stdio) (int, error) {
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	long := flags.Duration("for", 30*time.Minute, "")
	seed := flags.Uint64("seed", 1, "")
	mode := modeFlag(flags)
	path := flags.String("path", "direct", "")
	program := flags.String("wslmirror", beside("wslmirror"), "")
	if err := parse(flags, args); err != nil {
		return usageExit(err, std)
	}
	if *path != "proxy" && *path != "direct" {
		return exitUsage, usageError("--path: %q is neither proxy nor direct", *path)
	}
	if *long <= 0 {
		return exitUsage, usageError("--for: %v is no time to soak", *long)
	}
	wslmirror, err := findProgram("soak", *program)
	if err != nil {
		return exitFailure, err
	}
	cfg := chaos.Config{Seed: *seed, Mode: *mode, Direct: *path == "direct", Program: wslmirror}
	storm, soak, err := stormAndSoak(ctx, cfg, *long, newProgress(std.err))
	err = errors.Join(err, wslmirror.Close())
	if soak.Took > 0 {
		err = errors.Join(err, printSoak(std.out, storm, soak), storm.Check(), soak.Check())
	}
	if err != nil {
		return exitFailure, err
	}
	return exitOK, nil
}

// stormAndSoak runs both, one after the other.
func stormAndSoak(ctx context.Context, cfg chaos.Config, long time.Duration, p progress) (storm chaos.StormResult, soak chaos.SoakResult, err error) {
	err = p.step(fmt.Sprintf("a storm of %d events in %v", stormEvents, stormOver), func() (err error) {
		storm, err = chaos.Storm(ctx, cfg, stormEvents, stormOver)
		return err
	})
	if err != nil {
		return storm, soak, err
	}
	err = p.step(fmt.Sprintf("containers come and go, clients ask, and daemons take over in the second half, for %v", long), func() (err error) {
		soak, err = chaos.Soak(ctx, cfg, long)
		return err
	})
	return storm, soak, err
}

func printSoak(out io.Writer, storm chaos.StormResult, soak chaos.SoakResult) error {
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	row := func(what, format string, args ...any) {
		fmt.Fprintf(t, "  %s\t%s\n", what, fmt.Sprintf(format, args...))
	}
	cost := func(c chaos.Cost, took time.Duration) {
		row("looks at the kernel", "%d, %.1f a second", c.Looks, float64(c.Looks)/took.Seconds())
		row("processor", "%.1f s, %.1f %% of one", c.CPU.Seconds(), 100*c.CPU.Seconds()/took.Seconds())
		row("memory, at most", "%.1f MiB", float64(c.Memory)/(1<<20))
		row("threads, at most", "%d", c.Threads)
	}
	fmt.Fprintf(t, "A storm of %d events of links and of rulesets in %.0f s\n", storm.Events, storm.Took.Seconds())
	cost(storm.Cost, storm.Took)
	row("descriptors", "%d before, %d at most", storm.Before, storm.Descriptors)
	fmt.Fprintf(t, "\n%d changes of what is published and %d take-overs in %v\n", soak.Changes, soak.TakeOvers, soak.Took.Round(time.Second))
	for _, l := range []struct {
		client string
		chaos.Load
	}{{"Windows", soak.Windows}, {"Linux", soak.Linux}, {"a container", soak.Containers}} {
		row("answers to "+l.client, "%d, %d of them after more than a second, and %d lost", l.Answers, l.Late, l.Lost)
		row("on connections that stay", "%d, and %d connections broke", l.OnKept, l.Broken)
		if l.InGap > 0 {
			row("", "(%d of the lost and broken in take-overs, while no daemon had a table)", l.InGap)
		}
	}
	cost(soak.Cost, soak.Took)
	row("descriptors, at most", "%d", soak.Descriptors)
	row("one daemon, early and late", "%.1f and %.1f MiB, %d and %d descriptors",
		float64(soak.Early.Memory)/(1<<20), float64(soak.Late.Memory)/(1<<20), soak.Early.Descriptors, soak.Late.Descriptors)
	return t.Flush()
}
