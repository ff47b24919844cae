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

// A UnitState is what systemd says about a service, under the names of
// org.freedesktop.systemd1(5). The zero value is a service that systemd does not
// know or was not asked about.
type UnitState struct {
	Active     string // ActiveState: "active", "failed", "activating", ...
	Sub        string // SubState: "running", "auto-restart", ...
	Result     string // how the last run ended: "success", "exit-code", "signal", ...
	ExitStatus int    // ExecMainStatus: of the last run, a signal's number if one ended it
	Restarts   int    // NRestarts: by systemd, since the last start by hand
	// LastLine is the last thing that the last run had to say. It is empty where
	// the service is well, and where the user may not read the journal.
	LastLine string

	invocation string // InvocationID
	statusText string // StatusText
}

// Failed reports whether the service has ended with an error and stays down.
func (u UnitState) Failed() bool { return u.Active == "failed" }

// Restarting reports whether systemd starts the service again because it ended.
func (u UnitState) Restarting() bool {
	switch u.Active {
	case "activating":
		// Between two runs, or in one of them before it is ready.
		return strings.HasPrefix(u.Sub, "auto-restart") || u.Restarts > 0
	case "deactivating":
		return u.Result != "" && u.Result != "success" // ExecStopPost= after a run that failed
	}
	return false
}

// ReadUnit asks systemd about a service. It runs systemctl and journalctl, which the
// daemon may not do. When ctx is done it returns at once.
func ReadUnit(ctx context.Context, unit string) (UnitState, error) {
	type answer struct {
		state UnitState
		err   error
	}
	done := make(chan answer, 1)
	// Looking for a program in PATH cannot be interrupted, and in WSL the path
	// leads over Windows' drives.
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
	// What Notifier.Failed said can be read by every user, and the journal by some.
	var ok bool
	if u.LastLine, ok = strings.CutPrefix(u.statusText, failedPrefix); ok || u.invocation == "" {
		return u, nil
	}
	// The invocation rather than --unit: nothing of earlier runs, and nothing of
	// what systemd itself says about the unit.
	out, err = run(ctx, "journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=1000",
		"_SYSTEMD_INVOCATION_ID="+u.invocation)
	if err == nil {
		u.LastLine = lastLine(out)
	}
	return u, nil
}

// parseUnit reads the output of "systemctl show". What it does not know it skips.
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

// lastLine picks the line that tells most about the end of a run: the first line of
// a Go program's last words, where it crashed, or else the last line. The hint after
// an error is not it.
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
