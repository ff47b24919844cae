package e2e

import (
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/tracker"
)

// When WSL's port tracker has ended, no program in the VM can bind a port. Doctor and the
// daemon say so.
func TestDeadPortTracker(t *testing.T) {
	playMirrored(t)
	b := labtest.New(t, lab.Options{Tracker: &tracker.Options{}})
	if c := diagnose(t, b.WSL, runtimeDir(t)).check("port-tracker"); c.Verdict != "ok" {
		t.Errorf("while it lives: %+v", c)
	}
	b.Tracker.Kill()
	if c := diagnose(t, b.WSL, runtimeDir(t)).check("port-tracker"); c.Verdict != "fault" || !strings.Contains(c.Do, "wsl.exe --shutdown") {
		t.Errorf("%+v", c)
	}
	d := launch(t, b.WSL, must(t, plain).Command)
	if d.proc.Wait() == nil || d.proc.Cmd.ProcessState.ExitCode() != exitFailure || !strings.Contains(d.log.String(), "WSL's port tracker has ended") {
		t.Errorf("run ends with %d:\n%s", d.proc.Cmd.ProcessState.ExitCode(), d.log)
	}
}
