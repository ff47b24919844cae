package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
	"github.com/wslmirror/wslmirror/internal/status"
)

// What the matrix does not ask. Each direction is asked without wslmirror, with it, and
// with its path direct.
var directionColumns = [3]string{"without wslmirror", "with it", "with --path direct"}

// The ports without a container. Port 9101 is named and Linux listens on it, so it stays
// Linux's.
const (
	portToWindows = "9100"
	portOfLinux   = "9101"
	portNotNamed  = "9102"
	portShared    = "9103" // of Windows, on the LAN address as well
	portClosed    = "9104"

	toWindows = portToWindows + "," + portToWindows + "/udp," + portOfLinux
)

// The names by which a container knows the machine.
const (
	dockerName = "host.docker.internal"
	podmanName = "host.containers.internal"
)

var directionPorts = []published{
	{"everywhere", "0.0.0.0", "8080"},
	{"lan", lanAddress, "8082"},
}

// A direction is a way from a client to a server.
type direction struct {
	name   string
	from   *lab.Host
	addr   string
	server string // who is to answer with wslmirror, "" for nobody
	tcp    bool   // it is not asked by UDP
	closed bool   // nobody listens, and a refusal is the answer
}

// A directionRow is what came of a direction with an engine in a mode.
type directionRow struct {
	direction
	mode   lab.Mode
	engine string
	got    [len(directionColumns)]struct{ tcp, udp bool }
}

func runDirections(ctx context.Context, args []string, std stdio) (int, error) {
	return runTable(ctx, "directions", args, std, func(ctx context.Context, o tableOptions) (tableText, error) {
		p := newProgress(std.err)
		times, err := refusals(ctx, o.wslmirror, o.modes, p)
		if err != nil {
			return tableText{}, err
		}
		rows, err := directions(ctx, o.wslmirror, o.modes, o.settings(directionSettings()), p)
		return tableText{
			renderDirections(rows) + "\n" + renderRefusals(times),
			markdownDirections(rows) + "\n" + markdownRefusals(times),
			append(directionFaults(rows), refusalFaults(times)...),
		}, err
	})
}

// directionSettings are all engines, and one with a network that a user has made.
func directionSettings() (list []setting) {
	for _, e := range lab.Engines {
		list = append(list, setting{EngineKind: e})
		if e.Name == "docker-iptables" {
			list = append(list, setting{EngineKind: e, network: true})
		}
	}
	return list
}

// directions fills the rows of some engines.
func directions(ctx context.Context, program *sandbox.Program, modes []lab.Mode, list []setting, p progress) (rows []directionRow, err error) {
	err = p.step(fmt.Sprintf("ask %d engines in %d modes", len(list), len(modes)), func() error {
		rows, err = sideBySide(ctx, 5, list, func(ctx context.Context, s setting) (rows []directionRow, err error) {
			w, err := s.start(modes[0], directionPorts)
			if err != nil {
				return nil, err
			}
			defer func() { err = errors.Join(err, w.Close()) }()
			if err := w.serve(); err != nil {
				return nil, err
			}
			inside, names, err := w.engine.Enter(w.containers[0])
			if err != nil {
				return nil, err
			}
			err = w.inModes(modes, func(m lab.Mode) error {
				var of []directionRow
				for _, d := range w.directions(m, inside, cmp.Or(names[dockerName], names[podmanName])) {
					of = append(of, directionRow{direction: d, mode: m, engine: s.String()})
				}
				rows = append(rows, of...)
				return askDirections(ctx, rows[len(rows)-len(of):], w.WSL, program)
			})
			return rows, err
		})
		return err
	})
	slices.SortStableFunc(rows, func(a, b directionRow) int { return cmp.Compare(a.mode, b.mode) })
	return rows, err
}

// serve starts the servers without a container.
func (w *world) serve() error {
	for _, s := range []struct {
		host  *lab.Host
		proto string
		addr  string
	}{
		{w.Windows, "tcp", "127.0.0.1:" + portToWindows},
		{w.Windows, "udp", "127.0.0.1:" + portToWindows},
		{w.WSL, "tcp", "0.0.0.0:" + portOfLinux},
		{w.Windows, "tcp", "127.0.0.1:" + portNotNamed},
		{w.Windows, "udp", "127.0.0.1:" + portNotNamed},
		{w.Windows, "tcp", "0.0.0.0:" + portShared},
		{w.Windows, "udp", "0.0.0.0:" + portShared},
	} {
		if _, err := s.host.ServeEcho(s.proto, s.addr); err != nil {
			return err
		}
	}
	return nil
}

// directions are those of a mode. inside is a container, which knows the machine by a
// name of that address.
func (w *world) directions(mode lab.Mode, inside *lab.Host, named netip.Addr) (list []direction) {
	lan := netip.MustParseAddr(lanAddress)
	by := []struct {
		name string
		addr netip.Addr
	}{
		{"the gateway", w.containers[0].Gateway}, {"a name of the machine", named}, {"the LAN address", lan},
	}
	for _, a := range by {
		list = append(list, direction{name: "container → Windows by " + a.name, from: inside, addr: a.addr.String() + ":" + portToWindows, server: w.Windows.Name})
	}
	for _, a := range by {
		list = append(list, direction{name: "container → a port on which Linux listens, by " + a.name, from: inside, addr: a.addr.String() + ":" + portOfLinux, server: w.WSL.Name, tcp: true})
	}
	for _, a := range by {
		list = append(list, direction{name: "container → a port of Windows that is not named, by " + a.name, from: inside, addr: a.addr.String() + ":" + portNotNamed})
	}
	for _, p := range directionPorts {
		list = append(list, direction{name: "Linux → the LAN address, published on " + p.address, from: w.WSL, addr: lanAddress + ":" + p.port, server: p.container})
	}
	if mode == lab.MirroredHAL {
		for _, p := range directionPorts {
			list = append(list, direction{name: "Windows → the LAN address, published on " + p.address, from: w.Windows, addr: lanAddress + ":" + p.port, server: p.container})
		}
		list = append(list,
			direction{name: "Windows → the LAN address, a server of Linux", from: w.Windows, addr: lanAddress + ":" + portOfLinux, server: w.WSL.Name, tcp: true},
			direction{name: "Linux → the LAN address, a server of Windows", from: w.WSL, addr: lanAddress + ":" + portShared, server: w.Windows.Name},
			direction{name: "container → the LAN address, a server of Windows", from: inside, addr: lanAddress + ":" + portShared, server: w.Windows.Name},
		)
	}
	for _, p := range directionPorts {
		list = append(list, direction{name: "LAN → the LAN address, published on " + p.address, from: w.LAN, addr: lanAddress + ":" + p.port, server: p.container})
	}
	return append(list, direction{name: "Linux → a closed port of 127.0.0.1", from: w.WSL, addr: "127.0.0.1:" + portClosed, server: "a refusal", tcp: true, closed: true})
}

// askDirections fills the columns of rows.
func askDirections(ctx context.Context, rows []directionRow, wsl *lab.Host, program *sandbox.Program) error {
	for column, path := range []string{"", status.PathProxy, status.PathDirect} {
		d := daemon{host: wsl, program: program, args: []string{"--to-windows", toWindows, "--path", path}}
		if path != "" {
			if err := d.start(ctx); err != nil {
				return err
			}
		}
		var asking sync.WaitGroup
		for i := range rows {
			r := &rows[i]
			tries := fewTries
			if path != "" && r.server != "" {
				tries = manyTries
			}
			asking.Go(func() { r.got[column].tcp = r.isAnswered("tcp", tries) })
			if !r.tcp {
				asking.Go(func() { r.got[column].udp = r.isAnswered("udp", tries) })
			}
		}
		asking.Wait()
		if path != "" {
			if err := d.stop(ctx); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// isAnswered asks, up to tries times, whoever it is that may answer.
func (d direction) isAnswered(proto string, tries int) bool {
	switch {
	case d.closed:
		for range tries {
			if _, err := d.from.Ask(proto, d.addr, closedPatience); errors.Is(err, unix.ECONNREFUSED) {
				return true
			}
		}
		return false
	case d.server == "":
		for range tries {
			if _, err := d.from.Ask(proto, d.addr, patience); err == nil {
				return true
			}
		}
		return false
	}
	return isAnswered(d.from, proto, d.addr, d.server, tries)
}

// directionFaults says what should not be: an answer that is missing with wslmirror, or
// one that nobody should get.
func directionFaults(rows []directionRow) (faults []string) {
	for _, r := range rows {
		for column, name := range directionColumns {
			c, before := r.got[column], r.got[0]
			whole, what := c.tcp && (c.udp || r.tcp), ""
			switch {
			case r.server == "" && (c.tcp || c.udp):
				what = "it is answered, and should not be"
			case r.server == "" || whole || column == 0:
				continue
			case before.tcp && !c.tcp || before.udp && !c.udp:
				what = "wslmirror breaks it"
			default:
				what = "wslmirror does not repair it"
			}
			faults = append(faults, fmt.Sprintf("%s: %s: %s: %s (column %q)", r.mode, r.engine, r.name, what, name))
		}
	}
	return faults
}
