package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
)

func runDemo(ctx context.Context, args []string, std stdio) (int, error) {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	program := flags.String("wslmirror", beside("wslmirror"), "")
	mode := modeFlag(flags)
	if err := parse(flags, args); err != nil {
		return usageExit(err, std)
	}
	wslmirror, err := findProgram("demo", *program)
	if err != nil {
		return exitFailure, err
	}
	rows, note, err := demo(ctx, wslmirror, *mode, newProgress(std.err))
	if err := errors.Join(err, wslmirror.Close()); err != nil {
		return exitFailure, err
	}
	if _, err := fmt.Fprint(std.out, "\n", render(rows, note, wantsColour(std.out))); err != nil {
		return exitFailure, err
	}
	if cells := wrong(rows); len(cells) > 0 {
		return exitFailure, errors.New(strings.Join(cells, "\nmirrorlab: "))
	}
	return exitOK, nil
}

// demo fills the table, and says what of it is left out. It leaves nothing behind.
func demo(ctx context.Context, program *sandbox.Program, mode lab.Mode, p progress) (rows []row, note string, err error) {
	var b *bench
	err = p.step("build a bench: Windows, WSL and a container in network namespaces", func() (err error) {
		b, err = newBench(mode)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, b.Close()) }()

	all := ways(b, mode)
	daemon := daemon{host: b.WSL, program: program, args: []string{"--to-windows", windowsTCP}}
	for _, s := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"send requests without wslmirror", asker(all, without)},
		{"start wslmirror in WSL, with --to-windows " + windowsTCP, func(ctx context.Context) (err error) {
			if err = daemon.start(ctx); err == nil {
				note, err = daemon.leaveOut(ctx, all)
			}
			return err
		}},
		{"send requests with wslmirror", asker(all, with)},
		{"stop wslmirror", daemon.stop},
		{"send requests after it stopped", asker(all, after)},
	} {
		if err := p.step(s.what, func() error { return s.do(ctx) }); err != nil {
			return nil, "", err
		}
	}
	for _, w := range all {
		rows = append(rows, w.row)
	}
	return rows, note, nil
}

// asker is the step that fills a column.
func asker(ways []way, column int) func(context.Context) error {
	return func(ctx context.Context) error {
		ask(ways, column)
		return ctx.Err()
	}
}

// daemonTimeout is how long wslmirror may take to start or to stop. It does
// both in milliseconds.
var daemonTimeout = lab.Scaled(10 * time.Second)

// A daemon is the real wslmirror, at work in a host.
type daemon struct {
	host    *lab.Host
	program *sandbox.Program
	args    []string

	dir     string // where it publishes its state
	process *lab.Process
	output  bytes.Buffer // complete when the process has ended
}

// start returns when wslmirror says that it is active.
func (d *daemon) start(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	if d.dir, err = d.program.RuntimeDir(); err != nil {
		return err
	}
	cmd := d.program.Command(append([]string{"run", "--runtime-dir", d.dir}, d.args...)...)
	cmd.Stdout, cmd.Stderr = &d.output, &d.output
	if d.process, err = d.host.Start(cmd); err != nil {
		return err
	}
	for {
		status, err := d.host.Start(exec.CommandContext(ctx, d.program.Path, "status", "--json", "--runtime-dir", d.dir))
		switch {
		case err == nil:
			if status.Wait() == nil {
				return nil
			}
		case ctx.Err() == nil: // else it is too late, which is said below
			return err
		}
		select {
		case <-d.process.Done():
			return fmt.Errorf("wslmirror ended: %w: %s", d.process.Wait(), strings.TrimSpace(d.output.String()))
		case <-ctx.Done():
			return fmt.Errorf("wslmirror does not become active: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// leaveOut has nothing wanted of the ways that wslmirror leaves out on this kernel, and
// says which it leaves out and why; "" if none.
func (d *daemon) leaveOut(ctx context.Context, ways []way) (note string, err error) {
	cmd := exec.CommandContext(ctx, d.program.Path, "status", "--json", "--runtime-dir", d.dir)
	var out bytes.Buffer
	cmd.Stdout = &out
	p, err := d.host.Start(cmd)
	if err == nil {
		err = p.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("ask wslmirror for its state: %w", err)
	}
	var s struct {
		Directions []struct {
			Name   string
			Active bool
		}
		Degraded []struct{ Feature, Reason string }
	}
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		return "", fmt.Errorf("read the state of wslmirror: %w", err)
	}
	for _, l := range s.Degraded {
		note += fmt.Sprintf("wslmirror leaves out %s, because\n%s.\n", l.Feature, l.Reason)
	}
	for _, direction := range s.Directions {
		for i := range ways {
			if w := &ways[i]; note != "" && w.direction == direction.Name && !direction.Active {
				w.want, w.leftOut = always(w.want[without]), true
			}
		}
	}
	return note, nil
}

// stop ends wslmirror as systemd does.
func (d *daemon) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	if err := d.process.Process.Signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("stop wslmirror: %w", err)
	}
	select {
	case <-d.process.Done():
	case <-ctx.Done():
		return fmt.Errorf("wslmirror does not stop: %w", ctx.Err())
	}
	if err := d.process.Wait(); err != nil {
		return fmt.Errorf("wslmirror ended: %w: %s", err, strings.TrimSpace(d.output.String()))
	}
	return nil
}
