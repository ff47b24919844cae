package systemd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Booted reports whether systemd is the init of this system (sd_booted(3)).
func Booted() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// A UnitState is what systemd reports about a service. The names are those of
// org.freedesktop.systemd1(5). The zero value is a service that systemd does not know or
// was not asked about.
type UnitState struct {
	Active     string // ActiveState: "active", "failed", "activating", ...
	Sub        string // SubState: "running", "auto-restart", ...
	Result     string // how the last run ended: "success", "exit-code", "signal", ...
	ExitStatus int    // ExecMainStatus of the last run, or the signal's number if a signal ended it
	Restarts   int    // NRestarts: by systemd, since the last start by hand
	// LastLine is the last message of the last run. It is empty if the service runs without
	// a fault, or if the user may not read the journal.
	LastLine string

	invocation string // InvocationID
	statusText string // StatusText
}

// Failed reports whether the service has ended with an error and stays down.
func (u UnitState) Failed() bool { return u.Active == "failed" }

// Restarting reports whether systemd restarts the service after it ended.
func (u UnitState) Restarting() bool {
	switch u.Active {
	case "activating":
		// Between two runs, or in a run that is not yet ready.
		return strings.HasPrefix(u.Sub, "auto-restart") || u.Restarts > 0
	case "deactivating":
		return u.Result != "" && u.Result != "success" // ExecStopPost= after a run that failed
	}
	return false
}

// ReadUnit asks systemd about a service. It runs systemctl and journalctl, which the daemon
// must not do. It returns at once when ctx is done.
func ReadUnit(ctx context.Context, unit string) (UnitState, error) {
	type answer struct {
		state UnitState
		err   error
	}
	done := make(chan answer, 1)
	// Searching PATH for a program cannot be interrupted, and in WSL the PATH includes
	// Windows' drives.
	go func() {
		u, err := readUnit(ctx, unit, output)
		done <- answer{u, err}
	}()
	select {
	case a := <-done:
		return a.state, a.err
	case <-ctx.Done():
		return UnitState{}, fmt.Errorf("ask systemd: %w", ctx.Err())
	}
}

// output runs a program and returns its standard output.
func output(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = 100 * time.Millisecond
	out, err := cmd.Output()
	return string(out), err
}

func readUnit(ctx context.Context, unit string, run func(ctx context.Context, args ...string) (string, error)) (UnitState, error) {
	out, err := run(ctx, "systemctl", "show", "--no-pager",
		"--property=ActiveState,SubState,Result,ExecMainStatus,NRestarts,InvocationID,StatusText", unit)
	if err != nil {
		return UnitState{}, fmt.Errorf("ask systemd: %w", err)
	}
	u := parseUnit(out)
	if !u.Failed() && !u.Restarting() {
		return u, nil
	}
	// Every user can read the text of Notifier.Failed, but only some can read the journal.
	var ok bool
	if u.LastLine, ok = strings.CutPrefix(u.statusText, failedPrefix); ok || u.invocation == "" {
		return u, nil
	}
	// Select the invocation instead of --unit: this leaves out earlier runs, and systemd's
	// own messages about the unit.
	out, err = run(ctx, "journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=1000",
		"_SYSTEMD_INVOCATION_ID="+u.invocation)
	if err == nil {
		u.LastLine = lastLine(out)
	}
	return u, nil
}

// parseUnit reads the output of "systemctl show", and skips what it does not know.
func parseUnit(show string) (u UnitState) {
	number := func(s string) int {
		n, _ := strconv.Atoi(s)
		return n
	}
	for line := range strings.Lines(show) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch key {
		case "ActiveState":
			u.Active = value
		case "SubState":
			u.Sub = value
		case "Result":
			u.Result = value
		case "ExecMainStatus":
			u.ExitStatus = number(value)
		case "NRestarts":
			u.Restarts = number(value)
		case "InvocationID":
			u.invocation = value
		case "StatusText":
			u.statusText = value
		}
	}
	return u
}

// lastLine returns the line that best explains the end of a run. After a crash that is the
// first line of the Go runtime's message, otherwise the last line, but not the hint that
// follows an error.
func lastLine(journal string) (last string) {
	for line := range strings.Lines(journal) {
		line = strings.TrimSpace(line)
		for _, crash := range []string{"panic: ", "fatal error: ", "SIGABRT: "} {
			if strings.HasPrefix(line, crash) {
				return line
			}
		}
		if line != "" && !strings.HasPrefix(line, "hint: ") {
			last = strings.TrimPrefix(line, "wslmirror: ")
		}
	}
	return last
}
