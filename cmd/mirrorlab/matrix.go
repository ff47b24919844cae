package main

import (
	"cmp"
	"context"
	"errors"
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
	return runTable(ctx, "matrix", args, std, func(ctx context.Context, o tableOptions) (tableText, error) {
		list := settings()
		if o.engine != "" { // those that are asked for by name only
			list = append(list, swarms()...)
		}
		rows, err := matrix(ctx, o.wslmirror, o.modes, o.settings(list), newProgress(std.err))
		return tableText{renderMatrix(rows), shortMatrix(rows) + "\n" + markdownMatrix(rows), matrixFaults(rows)}, err
	})
}

// settings are all engines, and those that look for loopback0 when they start
// once more without it.
func settings() (list []setting) {
	for _, e := range lab.Engines {
		list = append(list, setting{EngineKind: e})
		if strings.HasPrefix(e.Name, "docker-iptables") || strings.HasPrefix(e.Name, "docker-nftables") {
			list = append(list, setting{EngineKind: e, late: true})
		}
	}
	return list
}

// swarms are the engines that not every kernel can run.
func swarms() (list []setting) {
	for _, e := range lab.Swarms {
		list = append(list, setting{EngineKind: e, everywhere: true})
	}
	return list
}

// matrix fills the rows of some engines.
func matrix(ctx context.Context, program *sandbox.Program, modes []lab.Mode, list []setting, p progress) (rows []matrixRow, err error) {
	err = p.step(fmt.Sprintf("ask %d engines in %d modes", len(list), len(modes)), func() error {
		rows, err = sideBySide(ctx, 3, list, func(ctx context.Context, s setting) (rows []matrixRow, err error) {
			w, err := s.start(modes[0], s.ports())
			if err != nil {
				return nil, err
			}
			defer func() { err = errors.Join(err, w.Close()) }()
			err = w.inModes(modes, func(m lab.Mode) error {
				of, err := s.fill(ctx, w.Bench, m, program)
				rows = append(rows, of...)
				return err
			})
			return rows, err
		})
		return err
	})
	slices.SortStableFunc(rows, func(a, b matrixRow) int { return cmp.Compare(a.mode, b.mode) })
	return rows, err
}

// The ports of the matrix: published on all addresses, and on one.
var matrixPorts = []published{
	{"everywhere", "0.0.0.0", "8080"},
	{"localhost", "127.0.0.1", "8081"},
}

// ports are those that the engine can publish.
func (s setting) ports() []published {
	if s.everywhere {
		return matrixPorts[:1]
	}
	return matrixPorts
}

// fill asks in one mode.
func (s setting) fill(ctx context.Context, b *lab.Bench, mode lab.Mode, program *sandbox.Program) (rows []matrixRow, err error) {
	for _, p := range s.ports() {
		rows = append(rows, matrixRow{mode: mode, engine: s.String(), address: p.address})
	}
	fill := func(column int) {
		var asking sync.WaitGroup
		for i, p := range s.ports() {
			cell := &rows[i].got[column]
			for to, from := range map[*bool]struct {
				host  *lab.Host
				proto string
			}{
				&cell.windows.tcp: {b.Windows, "tcp"}, &cell.windows.udp: {b.Windows, "udp"},
				&cell.linux.tcp: {b.WSL, "tcp"}, &cell.linux.udp: {b.WSL, "udp"},
			} {
				asking.Go(func() {
					tries := fewTries
					if column >= withPathProxy {
						tries = manyTries
					}
					*to = isAnswered(from.host, from.proto, "127.0.0.1:"+p.port, p.container, tries)
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
		for i, p := range matrixPorts[:len(rows)] {
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
