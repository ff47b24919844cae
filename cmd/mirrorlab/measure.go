package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
)

// debianDocker is the engine that is not a current one.
const debianDocker = "docker-20.10"

// measuring is what the user asked for.
type measuring struct {
	program         *sandbox.Program
	mode            lab.Mode
	engine          string
	trial           string // the only one, "" for all
	only            string // keys of variants, "" for all
	rounds, seconds int
}

func runBench(ctx context.Context, args []string, std stdio) (int, error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	var m measuring
	program := flags.String("wslmirror", beside("wslmirror"), "")
	flags.TextVar(&m.mode, "mode", lab.Mirrored, "")
	flags.StringVar(&m.engine, "engine", "docker-iptables", "")
	flags.StringVar(&m.trial, "trial", "", "")
	flags.StringVar(&m.only, "only", "", "")
	flags.IntVar(&m.rounds, "rounds", 10, "")
	flags.IntVar(&m.seconds, "seconds", 1, "")
	asJSON := flags.Bool("json", false, "")
	markdown := flags.Bool("markdown", false, "")
	svg := flags.String("svg", "", "")
	readme := flags.String("readme", "", "")
	if err := parse(flags, args); err != nil {
		return usageExit(err, std)
	}
	if m.rounds < 1 || m.seconds < 1 {
		return exitUsage, usageError("--rounds and --seconds must be 1 or more")
	}
	if *asJSON && *markdown {
		return exitUsage, usageError("--json and --markdown exclude each other")
	}
	if m.engine != debianDocker && m.engine != "docker-iptables" && m.engine != "docker-nftables" {
		return exitUsage, usageError("--engine: %q has no proxy to compare with; docker-20.10, docker-iptables and docker-nftables have", m.engine)
	}
	if len(m.trials()) == 0 {
		return exitUsage, usageError("--trial: there is no trial %q, or none with these ways", m.trial)
	}
	for key := range strings.SplitSeq(m.only, ",") {
		if m.only != "" && !slices.ContainsFunc(allVariants, func(v variant) bool { return v.Key == key }) {
			return exitUsage, usageError("--only: there is no way %q", key)
		}
	}
	if _, err := exec.LookPath("wrk"); err != nil {
		return exitFailure, hinted{fmt.Errorf("find the load generator: %w", err), "apt-get install wrk"}
	}
	var err error
	if m.program, err = findProgram("bench", *program); err != nil {
		return exitFailure, err
	}
	r, err := m.run(ctx, newProgress(std.err))
	if err := errors.Join(err, m.program.Close()); err != nil {
		return exitFailure, err
	}
	r.Command = strings.Join(append([]string{"mirrorlab bench"}, args...), " ")
	return exitCodeOf(r.write(std.out, *asJSON, *markdown, *svg, *readme))
}

func exitCodeOf(err error) (int, error) {
	if err != nil {
		return exitFailure, err
	}
	return exitOK, nil
}

// run measures everything. Within a round each trial meets all variants one after
// the other, so that what disturbs the machine meanwhile disturbs a pair alike, as
// inTurn says.
func (m measuring) run(ctx context.Context, p progress) (*report, error) {
	r := &report{Rounds: m.rounds, Seconds: m.seconds}
	if err := m.runOn(ctx, speedPorts, 0, m.rounds, r, p); err != nil {
		return nil, err
	}
	// docker-proxy's ports are used up after a round, and for a minute yet
	// (TIME_WAIT), so each round has a bench of its own.
	for round := range m.rounds {
		if err := m.runOn(ctx, fewPorts, round, round+1, r, p); err != nil {
			return nil, err
		}
	}
	r.compare()
	return r, nil
}

// trials are what is measured.
func (m measuring) trials() []trial {
	list := trials(m.seconds)
	for i := range list {
		list[i].variants = slices.DeleteFunc(slices.Clone(list[i].variants), func(v variant) bool {
			return m.only != "" && !slices.Contains(strings.Split(m.only, ","), v.Key)
		})
	}
	return slices.DeleteFunc(list, func(t trial) bool { return m.trial != "" && t.name != m.trial || len(t.variants) == 0 })
}

// runOn runs some rounds of the trials that want a block of so many ports, on a
// bench of their own.
func (m measuring) runOn(ctx context.Context, ports, from, to int, r *report, p progress) (err error) {
	trials := slices.DeleteFunc(m.trials(), func(t trial) bool { return t.ports != ports })
	if len(trials) == 0 {
		return nil
	}
	dir, err := os.MkdirTemp("", "mirrorlab-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var s *scene
	err = p.step(fmt.Sprintf("build a bench with %s and %d source ports", m.engine, ports), func() (err error) {
		s, err = newScene(m, ports, dir)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.bench.Close()) }()
	if r.Machine, err = describe(ctx, s); err != nil {
		return err
	}
	for round := from; round < to; round++ {
		for i, l := range trials {
			err := p.step(fmt.Sprintf("round %d of %d: %s", round+1, m.rounds, l.what), func() error {
				others, err := disturbance(func() error { return s.round(ctx, l, round+i, r) })
				r.Others.Values = append(r.Others.Values, others)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return s.use(ctx, nil)
}

// inTurn is the variants in the order of a turn: each begins with another one, and
// when each has begun once they go backwards, so that of a pair each comes first as
// often.
func inTurn(variants []variant, turn int) []variant {
	at := turn % len(variants)
	list := slices.Concat(variants[at:], variants[:at])
	if turn/len(variants)%2 == 1 {
		slices.Reverse(list)
	}
	return list
}

// round lets a trial meet every variant from every client, once.
func (s *scene) round(ctx context.Context, l trial, turn int, r *report) error {
	for _, client := range l.clients {
		for _, v := range inTurn(l.variants, turn) {
			t, err := s.target(ctx, v, client)
			if err != nil {
				return fmt.Errorf("%s from %s: %w", v.Title, client, err)
			}
			got, err := l.run(ctx, t)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return fmt.Errorf("%s, %s from %s: %w", l.what, v.Title, client, err)
			}
			for i, q := range l.yields {
				r.add(q, client, v, got.values[i])
			}
			if got.failed > 0 {
				r.Notes = append(r.Notes, fmt.Sprintf("%s, %s from %s: %d got no answer", l.what, v.Title, client, got.failed))
			}
		}
	}
	return nil
}
