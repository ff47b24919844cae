package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/nft"
)

func showStatus(args []string, stdout io.Writer) (int, error) {
	flags := flag.NewFlagSet("status", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "")
	watch := flags.Bool("watch", false, "")
	dir := runtimeDir(flags)
	if err := parse(flags, args); err != nil {
		return usageExit(err, stdout)
	}
	if *watch {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
		defer stop()
		return watchStatus(ctx, *dir, *asJSON, stdout)
	}
	s, here, err := lookAtStatus(*dir)
	if err != nil {
		return exitFailure, err
	}
	if *asJSON {
		err = writeJSON(stdout, timed(s))
	} else {
		here.lookAround(s)
		err = printStatus(stdout, screenOf(stdout), s, here)
	}
	if err != nil {
		return exitFailure, fmt.Errorf("print: %w", err)
	}
	switch s.State {
	case status.Active:
		return exitOK, nil
	case status.Error:
		return exitFailure, nil
	}
	return exitNotActive, nil
}

// lookAtStatus is the current state. If no daemon runs here, it says why as far as is known.
func lookAtStatus(dir string) (s status.Snapshot, here surroundings, err error) {
	if s, err = current(dir); err != nil {
		hint := "systemctl status wslmirror"
		if other := (*status.SchemaError)(nil); errors.As(err, &other) {
			hint = "sudo systemctl restart wslmirror"
		}
		return s, here, hinted{err, hint}
	}
	here.older = s.Schema == 0
	if s.Mode == "" { // of an older daemon
		_, mode := kernelMode(s.Interface.Name)
		s.Mode = string(mode)
	}
	s.Ports = holders(dir, s)
	if s.State == status.Stopped {
		// If systemd does not answer, the reason stays empty.
		here.unit, _ = readService(context.Background(), dir)
		here.tooOld = tooOld()
		s.Reason = cmp.Or(here.tooOld, trouble(here.unit))
		if here.elsewhere = servedElsewhere(); here.elsewhere && s.Reason == "" {
			s.Reason = servedReason
		}
	}
	return s, here, nil
}

// servedReason is the Reason where another distribution runs the daemon.
const servedReason = "wslmirror is not running here; another distribution of this VM runs it"

// timed is s for programs, which rely on the schema and on a time, even if the time is
// unknown.
func timed(s status.Snapshot) status.Snapshot {
	s.Schema = status.Schema
	if s.Since.IsZero() {
		s.Since = time.Now()
		s.Updated = s.Since
	}
	return s
}

// staleAfter is the age from which a snapshot is out of date, although the daemon
// has just been asked for a new one.
const staleAfter = time.Minute

// current is the current state, as the daemon publishes it in dir.
func current(dir string) (status.Snapshot, error) {
	switch err := status.Refresh(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return stopped(), nil
	case errors.Is(err, status.ErrSilent):
		s, readErr := status.Read(dir)
		if readErr != nil {
			s = stopped()
		}
		s.State, s.Reason = status.Error, err.Error()
		return s, nil
	case err != nil:
		return status.Snapshot{}, err
	}
	s, err := status.Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return stopped(), nil // it has just stopped
	}
	if err != nil {
		return status.Snapshot{}, err
	}
	if age := time.Since(s.Updated); age > staleAfter {
		s.State = status.Error
		s.Reason = fmt.Sprintf("the daemon runs, but last published its state %s ago", age.Round(time.Second))
	}
	return s, nil
}

// stopped is the state where there is no daemon.
func stopped() status.Snapshot {
	s := status.Snapshot{
		Schema:    status.Schema,
		State:     status.Stopped,
		Interface: status.Interface{Name: status.DefaultInterface},
		Table:     status.Table{Family: nft.TableFamily, Name: nft.TableName},
		Ports:     []status.Port{},
		Path:      status.PathProxy,
		Version:   version,
	}
	link, mode := kernelMode(status.DefaultInterface)
	s.Interface.Index, s.Interface.Present, s.Mode = link.Index, link.Present(), string(mode)
	return s
}
