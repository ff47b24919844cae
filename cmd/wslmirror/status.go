package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/systemd"
)

func showStatus(args []string, stdout io.Writer) (int, error) {
	flags := flag.NewFlagSet("status", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "")
	dir := flags.String("runtime-dir", status.DefaultDir, "")
	if err := parse(flags, args); err != nil {
		return usageExit(err, stdout)
	}
	s, err := current(*dir)
	if err != nil {
		return exitFailure, hinted{err, "ask the service manager: systemctl status wslmirror"}
	}
	link, mode := kernelMode(s.Interface.Name)
	if s.Mode == "" { // of a daemon that is older
		s.Mode = string(mode)
	}
	var unit systemd.UnitState
	if s.State == status.Stopped {
		// Without an answer of systemd, stopped is all there is to say.
		unit, _ = readService(context.Background(), *dir)
		s.Reason = trouble(unit)
	}
	if *asJSON {
		if s.Since.IsZero() { // nobody knows since when, and programs rely on a time
			s.Since = time.Now()
			s.Updated = s.Since
		}
		err = writeJSON(stdout, s)
	} else {
		here := lookAround(link)
		here.unit = unit
		err = printStatus(stdout, s, here)
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

// staleAfter is the age at which a snapshot is not believed, though the daemon
// has just been asked for a new one.
const staleAfter = time.Minute

// current is the state now, by the word of the daemon that publishes in dir.
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
		return stopped(), nil // it has stopped in this very moment
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
		State:     status.Stopped,
		Interface: status.Interface{Name: defaultInterface},
		Table:     status.Table{Family: nft.TableFamily, Name: nft.TableName},
		Ports:     []status.Port{},
		Path:      status.PathProxy,
		Version:   version,
	}
	link, mode := kernelMode(defaultInterface)
	s.Interface.Index, s.Interface.Present, s.Mode = link.Index, link.Present(), string(mode)
	return s
}
