package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/text"
)

func showDoctor(args []string, stdout io.Writer) (int, error) {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "")
	bundle := flags.String("bundle", "", "")
	dir := runtimeDir(flags)
	if err := parse(flags, args); err != nil {
		return usageExit(err, stdout)
	}
	var file *os.File
	if *bundle != "" {
		if *asJSON {
			return exitUsage, usageError("--json and --bundle cannot be combined: the bundle contains both")
		}
		var err error
		// First, so that nobody waits five seconds to learn that the file exists.
		if file, err = createBundle(*bundle); err != nil {
			return exitFailure, err
		}
		defer file.Close()
	}

	ctx, cancel := context.WithTimeout(context.Background(), doctor.Timeout)
	defer cancel()
	extra, redactor := make(chan []section, 1), make(chan *text.Redactor, 1)
	if file != nil {
		go func() { extra <- gather(ctx, *dir) }()
		go func() { redactor <- doctor.NewRedactor(ctx, "/") }()
	}
	report := doctor.Run(ctx, doctor.Config{
		Iface: status.DefaultInterface, Root: "/", Inside: insides(),
		Status: func() (status.Snapshot, error) { return current(*dir) },
		Hold:   func() (status.Hold, error) { return status.ReadHold(status.HoldDir(*dir)) },
		Service: func(ctx context.Context) (doctor.Service, error) {
			u, err := readService(ctx, *dir)
			return doctor.Service{Trouble: trouble(u), BadOptions: badOptions(u)}, err
		},
	})
	code := exitOK
	if report.Summary.Faults > 0 {
		code = exitFailure
	}
	var err error
	switch {
	case file != nil:
		if err = writeBundle(file, report, <-extra, <-redactor); err != nil {
			err = errors.Join(fmt.Errorf("write the bundle: %w", err), os.Remove(*bundle))
			break
		}
		_, err = fmt.Fprintf(stdout, "Wrote %s: %s.\nUser names, host names and public addresses are replaced in it. Read it before you share it.\n",
			text.Line(*bundle), summary(report.Summary))
	case *asJSON:
		err = encodeReport(stdout, report)
	default:
		err = printReport(stdout, screenOf(stdout), report)
	}
	if err != nil {
		return exitFailure, err
	}
	return code, nil
}

// A doctorDocument is what "doctor --json" prints.
type doctorDocument struct {
	Schema  int    `json:"schema"`
	Version string `json:"version"`
	doctor.Report
}

func encodeReport(w io.Writer, r doctor.Report) error {
	return writeJSON(w, doctorDocument{schema, version, r})
}

// createBundle creates the file, readable for its owner only. It never overwrites an
// existing file, which may be a bundle that somebody has attached to an issue.
func createBundle(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, hinted{fmt.Errorf("%s already exists", text.Line(path)), "choose another file name, or remove the file first"}
	}
	if err != nil {
		return nil, hinted{err, "choose a folder that you can write to"}
	}
	// Under sudo the file belongs to the user who ran sudo, not to root. On a drive of
	// Windows (DrvFs) chown fails: all files there belong to one user.
	uid, uidErr := strconv.Atoi(os.Getenv("SUDO_UID"))
	gid, gidErr := strconv.Atoi(os.Getenv("SUDO_GID"))
	if os.Geteuid() == 0 && uidErr == nil && gidErr == nil {
		if err := f.Chown(uid, gid); err != nil && !errors.Is(err, unix.EPERM) {
			return nil, errors.Join(fmt.Errorf("change the owner of %s: %w", text.Line(filepath.Base(path)), err), f.Close(), os.Remove(path))
		}
	}
	return f, nil
}

// writeBundle writes the report and the gathered sections, with private names
// replaced.
func writeBundle(w io.Writer, r doctor.Report, extra []section, redactor *text.Redactor) error {
	var report, asJSON bytes.Buffer
	if err := errors.Join(printReport(&report, paper, r), encodeReport(&asJSON, r)); err != nil {
		return err
	}
	sections := append([]section{
		{"wslmirror doctor", report.String()},
		{"the network", describe(r.Seen)},
	}, append(extra, section{"wslmirror doctor --json", asJSON.String()})...)
	var all bytes.Buffer
	fmt.Fprintf(&all, "wslmirror %s, a bundle for a bug report\n", version)
	redactor.Keep(r.Seen.Guest.Release)
	for _, s := range sections {
		if s.name == wslVersion {
			redactor.Keep(s.text)
		}
		fmt.Fprintf(&all, "\n==== %s ====\n%s\n", s.name, unforged(strings.TrimRight(s.text, "\n")))
	}
	// All at once, so that a name or address has the same replacement everywhere.
	_, err := io.WriteString(w, redactor.Redact(text.Lines(all.String())))
	return err
}
