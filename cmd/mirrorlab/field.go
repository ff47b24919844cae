package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/field"
)

// version is that of the package. The Makefile sets it.
var version = "unknown"

func runField(ctx context.Context, args []string, std stdio) (code int, err error) {
	flags := flag.NewFlagSet("field", flag.ContinueOnError)
	yes := flags.Bool("yes", false, "")
	name := flags.String("report", "wslmirror-field", "")
	program := flags.String("wslmirror", "", "")
	if err := parse(flags, args); err != nil {
		return usageExit(err, std)
	}
	wslmirror, err := findInstalled(*program)
	if err != nil {
		return exitFailure, err
	}
	if os.Geteuid() != 0 {
		return exitFailure, hinted{fs.ErrPermission, "run it with sudo"}
	}
	look, err := field.LookAround(ctx)
	if err != nil {
		return exitFailure, hinted{err, "mirrorlab field is for WSL2 with networkingMode=mirrored or consomme; mirrorlab demo runs everywhere"}
	}
	fmt.Fprint(std.err, look.Plan())
	if !*yes && !confirmed(ctx, std) {
		return exitFailure, errors.New("nothing was done")
	}
	// Before everything else: nobody should wait to learn that a file is there.
	files, err := createReports(*name+".md", *name+".json")
	if err != nil {
		return exitFailure, err
	}
	written := false
	defer func() { err = errors.Join(err, files.close(!written)) }()

	report, notBack := look.Run(ctx, field.Options{Wslmirror: wslmirror, Step: newProgress(std.err).step})
	var left field.LeftError
	if errors.As(notBack, &left) && ctx.Err() != nil { // which is said instead
		fmt.Fprintf(std.err, "mirrorlab: %v\n", left)
	}
	if report == nil {
		return exitFailure, notBack
	}
	report.Version = version
	report.Judge()
	names, cancel := context.WithTimeout(ctx, doctor.Timeout)
	defer cancel()
	markdown, asJSON, err := report.Redacted(doctor.NewRedactor(names, "/"))
	if err != nil {
		return exitFailure, err
	}
	for i, text := range []string{markdown, asJSON} {
		if _, err := io.WriteString(files[i], text); err != nil {
			return exitFailure, err
		}
	}
	written = true
	s := report.Summary
	fmt.Fprintf(std.out, "Wrote %s.md and %s.json: it differs from the bench in %d, agrees in %d, and %d were not judged.\n", *name, *name, len(s.Differs), s.Agrees, s.Unknown)
	fmt.Fprintln(std.out, "Names of users and hosts and public addresses are replaced in them. Read them before you share them.")
	if len(s.Differs) > 0 || notBack != nil {
		return exitFailure, notBack
	}
	return exitOK, nil
}

// findInstalled finds wslmirror beside this program, or else in $PATH, as the package
// has it.
func findInstalled(name string) (string, error) {
	path, err := exec.LookPath(cmp.Or(name, beside("wslmirror")))
	if err != nil && name == "" {
		path, err = exec.LookPath("wslmirror")
	}
	if err != nil {
		return "", hinted{fmt.Errorf("find wslmirror: %w", err), "name it: mirrorlab field --wslmirror PATH"}
	}
	return path, nil
}

// confirmed asks a person.
func confirmed(ctx context.Context, std stdio) bool {
	fmt.Fprint(std.err, "\nGo on? [y/N] ")
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(std.in).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case a := <-answer:
		return a == "y" || a == "yes"
	case <-ctx.Done():
		return false
	}
}

// reports are the files of a report.
type reports []*os.File

// createReports makes the files, for their owner only. What is there is never
// overwritten: it may be the report that is already attached somewhere.
func createReports(paths ...string) (files reports, err error) {
	for _, path := range paths {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if errors.Is(err, fs.ErrExist) {
			err = hinted{fmt.Errorf("%s is there already", path), "remove it, or give another name: --report NAME"}
		}
		if err != nil {
			return nil, errors.Join(err, files.close(true))
		}
		files = append(files, f)
		// Under sudo it belongs to who asked for it. On a drive of Windows nobody may
		// say so.
		uid, uidErr := strconv.Atoi(os.Getenv("SUDO_UID"))
		gid, gidErr := strconv.Atoi(os.Getenv("SUDO_GID"))
		if uidErr == nil && gidErr == nil {
			if err := f.Chown(uid, gid); err != nil && !errors.Is(err, unix.EPERM) {
				return nil, errors.Join(err, files.close(true))
			}
		}
	}
	return files, nil
}

// close closes the files, and removes them if they have no report.
func (r reports) close(remove bool) (err error) {
	for _, f := range r {
		err = errors.Join(err, f.Close())
		if remove {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}
	return err
}
