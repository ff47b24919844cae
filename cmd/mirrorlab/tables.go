package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
)

// tableOptions are the flags of the verbs that ask all engines in all modes.
type tableOptions struct {
	wslmirror *sandbox.Program
	engine    string // "" for all
	modes     []lab.Mode
}

// settings are those of the engine.
func (o tableOptions) settings(all []setting) []setting {
	return slices.DeleteFunc(all, func(s setting) bool { return o.engine != "" && o.engine != s.Name })
}

// tableText is what such a verb prints, and what is not as it should be.
type tableText struct {
	text, markdown string
	faults         []string
}

// runTable runs such a verb, of which fill finds out what to print.
func runTable(ctx context.Context, verb string, args []string, std stdio, fill func(context.Context, tableOptions) (tableText, error)) (int, error) {
	o := tableOptions{modes: lab.Modes}
	flags := flag.NewFlagSet(verb, flag.ContinueOnError)
	program := flags.String("wslmirror", beside("wslmirror"), "")
	markdown := flags.Bool("markdown", false, "")
	flags.StringVar(&o.engine, "engine", "", "")
	flags.Func("mode", "", func(name string) error {
		o.modes = make([]lab.Mode, 1)
		return o.modes[0].UnmarshalText([]byte(name))
	})
	if err := parse(flags, args); err != nil {
		return usageExit(err, std)
	}
	engines := lab.Engines
	if verb == "matrix" {
		engines = slices.Concat(engines, lab.Swarms)
	}
	if o.engine != "" && !slices.ContainsFunc(engines, func(e lab.EngineKind) bool { return e.Name == o.engine }) {
		return exitUsage, usageError("--engine: there is no engine %q", o.engine)
	}
	var err error
	if o.wslmirror, err = findProgram(verb, *program); err != nil {
		return exitFailure, err
	}
	table, err := fill(ctx, o)
	if err := errors.Join(err, o.wslmirror.Close()); err != nil {
		return exitFailure, err
	}
	text := table.text
	if *markdown {
		text = table.markdown
	}
	if _, err := fmt.Fprint(std.out, text); err != nil {
		return exitFailure, err
	}
	if len(table.faults) > 0 {
		return exitFailure, errors.New(strings.Join(table.faults, "\nmirrorlab: "))
	}
	return exitOK, nil
}

// A setting is an engine in its surroundings.
type setting struct {
	lab.EngineKind
	// late says that loopback0 appears only after the engine has started and
	// published its ports.
	late bool
	// network has the containers in a network that a user has made, as compose does.
	network bool
	// everywhere says that the engine publishes ports on all addresses only.
	everywhere bool
}

func (s setting) String() string {
	switch {
	case s.late:
		return s.Name + ", loopback0 late"
	case s.network:
		return s.Name + ", a user's network"
	}
	return s.Name
}

// sideBySide collects the rows of the settings, in their order, until one fails. So many
// run at once: most of the time clients wait for answers that do not come.
func sideBySide[Row any](ctx context.Context, atOnce int, list []setting, fn func(context.Context, setting) ([]Row, error)) ([]Row, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	of := make([][]Row, len(list))
	free := make(chan struct{}, atOnce)
	var asking sync.WaitGroup
	for i, s := range list {
		asking.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			if ctx.Err() != nil {
				return
			}
			var err error
			if of[i], err = fn(ctx, s); err != nil {
				cancel(fmt.Errorf("%s: %w", s, err))
			}
		})
	}
	asking.Wait()
	return slices.Concat(of...), context.Cause(ctx)
}

// A published port is one of a container's. Each has a container of its own, since
// Docker 29's nftables backend without proxy cannot publish a port of a container twice.
type published struct{ container, address, port string }

// A world is an engine at work on a bench of its own.
type world struct {
	*lab.Bench
	engine     lab.Engine
	containers []*lab.Container // one for each port
}

// start starts the engine in a mode and publishes the ports. The world must be closed.
func (s setting) start(mode lab.Mode, ports []published) (*world, error) {
	b, err := lab.New(lab.Options{Mode: mode, NoLoopback0: s.late})
	if err != nil {
		return nil, err
	}
	w := &world{Bench: b}
	if w.engine, err = s.Start(b.WSL); err == nil {
		err = s.publish(w, ports)
	}
	if err == nil && s.late {
		err = b.AddLoopback0()
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return w, nil
}

// publish starts the containers.
func (s setting) publish(w *world, ports []published) error {
	var options []string
	if s.network {
		const name = "user"
		if _, err := w.engine.CLI("network", "create", name); err != nil {
			return err
		}
		options = append(options, "--network", name)
	}
	if strings.HasPrefix(s.Name, "docker") { // Podman writes such a name itself
		options = append(options, "--add-host", dockerName+":host-gateway")
	}
	for _, p := range ports {
		at := p.port + ":80/"
		if !s.everywhere {
			at = p.address + ":" + at
		}
		c, err := w.engine.RunWith(p.container, slices.Concat(options, []string{"--publish", at + "tcp", "--publish", at + "udp"})...)
		if err != nil {
			return err
		}
		w.containers = append(w.containers, c)
	}
	// A bridge can change its MAC address when a container joins it, and then the
	// others answer to the old one for a moment.
	for _, c := range w.containers {
		if err := w.WSL.Await(c); err != nil {
			return err
		}
	}
	return nil
}

// inModes runs fn in each mode, of which the first is that of the start.
func (w *world) inModes(modes []lab.Mode, fn func(lab.Mode) error) error {
	for i, mode := range modes {
		if i > 0 {
			if err := w.SetMode(mode); err != nil {
				return err
			}
		}
		if err := fn(mode); err != nil {
			return err
		}
	}
	return nil
}

// How often a client asks, since the machine may be busy: what hangs does so again. A
// missing answer that would be a fault is asked for more often.
const (
	fewTries  = 2
	manyTries = 5
)

// isAnswered reports whether a client in a host is answered by the server of that name.
func isAnswered(from *lab.Host, proto, addr, name string, tries int) bool {
	for range tries {
		if answer, err := from.Ask(proto, addr, patience); err == nil && answer == name {
			return true
		}
	}
	return false
}

func tick(ok bool) string {
	if ok {
		return "✓"
	}
	return "✗"
}

// plainTable aligns the columns of rows.
func plainTable(rows [][]string) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	t.Flush()
	return trimmed(b.String())
}

// markdownTable is a table whose first row is its head. From column centred on all are
// centred.
func markdownTable(rows [][]string, centred int) string {
	var b strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(&b, "%s%s|\n", strings.Repeat("|---", centred), strings.Repeat("|:-:", len(row)-centred))
		}
	}
	return b.String()
}

// trimmed is text without the spaces at the ends of its lines.
func trimmed(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}
