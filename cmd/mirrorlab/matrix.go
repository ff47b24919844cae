package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
	"github.com/wslmirror/wslmirror/internal/status"
)

// The matrix asks every way to a container four times: with nothing, with the
// blanket rule that sends all of localhost to the proxy, and with wslmirror in
// both of its ways. In modes other than mirrored the blanket rule is not tried: what
// it breaks does not depend on the mode.
var matrixColumns = [4]string{"nothing", "the blanket rule", "wslmirror", "--path direct"}

const blanketColumn = 1

// The columns from which on wslmirror runs.
const (
	withPathProxy = 2 + iota
	withPathDirect
)

// A matrixRow is a mode, an engine and an address on which it publishes a port.
type matrixRow struct {
	mode            lab.Mode
	engine, address string
	got             [len(matrixColumns)]matrixCell
	// path is how the port is reached in the last column, by wslmirror's word.
	path string
}

// A matrixCell is who was answered.
type matrixCell struct {
	windows, linux struct{ tcp, udp bool }
}

// whole reports whether all were answered.
func (c matrixCell) whole() bool {
	return c.windows.tcp && c.windows.udp && c.linux.tcp && c.linux.udp
}

// lost reports whether c lacks an answer that other has.
func (c matrixCell) lost(other matrixCell) bool {
	return other.windows.tcp && !c.windows.tcp || other.windows.udp && !c.windows.udp ||
		other.linux.tcp && !c.linux.tcp || other.linux.udp && !c.linux.udp
}

func runMatrix(ctx context.Context, args []string, std stdio) (int, error) {
	flags := flag.NewFlagSet("matrix", flag.ContinueOnError)
	program := flags.String("wslmirror", beside("wslmirror"), "")
	markdown := flags.Bool("markdown", false, "")
	only := flags.String("engine", "", "")
	modes := lab.Modes
	flags.Func("mode", "", func(name string) error {
		modes = make([]lab.Mode, 1)
		return modes[0].UnmarshalText([]byte(name))
	})
	if err := parse(flags, args); err != nil {
		return usageExit(err, std)
	}
	wslmirror, err := findProgram("matrix", *program)
	if err != nil {
		return exitFailure, err
	}
	rows, err := matrix(ctx, wslmirror, modes, *only, newProgress(std.err))
	if err := errors.Join(err, wslmirror.Close()); err != nil {
		return exitFailure, err
	}
	if len(rows) == 0 {
		return exitUsage, usageError("--engine: there is no engine %q", *only)
	}
	text := renderMatrix(rows)
	if *markdown {
		text = shortMatrix(rows) + "\n" + markdownMatrix(rows)
	}
	if _, err := fmt.Fprint(std.out, text); err != nil {
		return exitFailure, err
	}
	if faults := matrixFaults(rows); len(faults) > 0 {
		return exitFailure, errors.New(strings.Join(faults, "\nmirrorlab: "))
	}
	return exitOK, nil
}

// A setting is an engine in its surroundings.
type setting struct {
	lab.EngineKind
	// late says that loopback0 appears only after the engine has started and
	// published its ports.
	late bool
}

func (s setting) String() string {
	if s.late {
		return s.Name + ", loopback0 late"
	}
	return s.Name
}

// settings are all engines, and those that look for loopback0 when they start
// once more without it.
func settings() (list []setting) {
	for _, e := range lab.Engines {
		list = append(list, setting{EngineKind: e})
		if strings.HasPrefix(e.Name, "docker-iptables") || strings.HasPrefix(e.Name, "docker-nftables") {
			list = append(list, setting{e, true})
		}
	}
	return list
}

// atOnce is how many engines are asked at a time: most of the time clients wait for
// answers that do not come.
const atOnce = 3

// matrix fills the rows of all engines, or of one.
func matrix(ctx context.Context, program *sandbox.Program, modes []lab.Mode, only string, p progress) (rows []matrixRow, err error) {
	list := slices.DeleteFunc(settings(), func(s setting) bool { return only != "" && only != s.Name })
	if len(list) == 0 {
		return nil, nil
	}
	err = p.step(fmt.Sprintf("ask %d engines in %d modes", len(list), len(modes)), func() error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		of := make([][]matrixRow, len(list))
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
				if of[i], err = s.rows(ctx, program, modes); err != nil {
					cancel(fmt.Errorf("%s: %w", s, err))
				}
			})
		}
		asking.Wait()
		for _, mode := range modes {
			for _, r := range slices.Concat(of...) {
				if r.mode == mode {
					rows = append(rows, r)
				}
			}
		}
		return context.Cause(ctx)
	})
	return rows, err
}

// The ports of the matrix: published on all addresses, and on one. Each has a
// container of its own, since Docker 29's nftables backend without proxy cannot
// publish a port of a container twice.
var matrixPorts = [2]struct{ container, address, port string }{
	{"everywhere", "0.0.0.0", "8080"},
	{"localhost", "127.0.0.1", "8081"},
}

// rows runs the engine on a bench of its own, which changes its mode.
func (s setting) rows(ctx context.Context, program *sandbox.Program, modes []lab.Mode) (rows []matrixRow, err error) {
	b, err := lab.New(lab.Options{Mode: modes[0], NoLoopback0: s.late})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	engine, err := s.Start(b.WSL)
	if err != nil {
		return nil, err
	}
	var containers []*lab.Container
	for _, p := range matrixPorts {
		publish := p.address + ":" + p.port + ":80/"
		c, err := engine.Run(p.container, publish+"tcp", publish+"udp")
		if err != nil {
			return nil, err
		}
		containers = append(containers, c)
	}
	// A bridge can change its MAC address when a container joins it, and then the
	// others answer to the old one for a moment.
	for _, c := range containers {
		if err := b.WSL.Await(c); err != nil {
			return nil, err
		}
	}
	if s.late {
		if err := b.AddLoopback0(); err != nil {
			return nil, err
		}
	}

	for i, mode := range modes {
		if i > 0 {
			if err := b.SetMode(mode); err != nil {
				return nil, err
			}
		}
		r, err := s.fill(ctx, b, mode, program)
		if err != nil {
			return nil, err
		}
		rows = append(rows, r...)
	}
	return rows, nil
}

// fill asks in one mode.
func (s setting) fill(ctx context.Context, b *lab.Bench, mode lab.Mode, program *sandbox.Program) (rows []matrixRow, err error) {
	for _, p := range matrixPorts {
		rows = append(rows, matrixRow{mode: mode, engine: s.String(), address: p.address})
	}
	fill := func(column int) {
		var asking sync.WaitGroup
		for i, p := range matrixPorts {
			cell := &rows[i].got[column]
			for to, from := range map[*bool]struct {
				host  *lab.Host
				proto string
			}{
				&cell.windows.tcp: {b.Windows, "tcp"}, &cell.windows.udp: {b.Windows, "udp"},
				&cell.linux.tcp: {b.WSL, "tcp"}, &cell.linux.udp: {b.WSL, "udp"},
			} {
				asking.Go(func() {
					// The machine may be busy: what hangs does so again.
					tries := 2
					if column >= withPathProxy {
						tries = 5 // for here it would be a fault
					}
					for range tries {
						answer, err := from.host.Ask(from.proto, "127.0.0.1:"+p.port, patience)
						if *to = err == nil && answer == p.container; *to {
							break
						}
					}
				})
			}
		}
		asking.Wait()
	}
	fill(0)
	if mode == lab.Mirrored {
		remove, err := b.BlanketRule()
		if err != nil {
			return nil, err
		}
		fill(blanketColumn)
		if err := remove(); err != nil {
			return nil, err
		}
	}
	for column, path := range []string{withPathProxy: status.PathProxy, withPathDirect: status.PathDirect} {
		if path == "" {
			continue // wslmirror does not run
		}
		d := daemon{host: b.WSL, program: program, args: []string{"--path", path}}
		if err := d.start(ctx); err != nil {
			return nil, err
		}
		if path == status.PathDirect {
			if err := d.paths(rows); err != nil {
				return nil, err
			}
		}
		fill(column)
		if err := d.stop(ctx); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// paths fills in how the ports are reached. The path direct takes two steps: the
// bridge is opened before anything is sent there.
func (d *daemon) paths(rows []matrixRow) error {
	for deadline := time.Now().Add(daemonTimeout); ; time.Sleep(10 * time.Millisecond) {
		if err := status.Refresh(d.dir); err != nil {
			return err
		}
		s, err := status.Read(d.dir)
		if err != nil {
			return err
		}
		found := map[string]string{}
		for _, p := range s.Ports {
			if p.Path == status.PathProxy && time.Now().Before(deadline) {
				found = nil
				break
			}
			found[fmt.Sprint(p.Port)] = p.Path
		}
		if found == nil {
			continue
		}
		for i, p := range matrixPorts {
			rows[i].path = found[p.port]
		}
		return nil
	}
}

// matrixFaults says what should not be: an answer that is missing with
// wslmirror, or a proxy on the way that should be direct.
func matrixFaults(rows []matrixRow) (faults []string) {
	for _, r := range rows {
		for column := withPathProxy; column < len(matrixColumns); column++ {
			c := r.got[column]
			if c.whole() {
				continue
			}
			what := "does not repair it"
			if c.lost(r.got[0]) {
				what = "breaks it"
			}
			faults = append(faults, fmt.Sprintf("%s: %s on %s: wslmirror %s (column %q)", r.mode, r.engine, r.address, what, matrixColumns[column]))
		}
		if r.path != status.PathDirect && r.path != status.PathKernel {
			faults = append(faults, fmt.Sprintf("%s: %s on %s: with --path direct the path is %q", r.mode, r.engine, r.address, r.path))
		}
	}
	return faults
}
