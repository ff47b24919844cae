package windows

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// standIn puts a program on PATH, which otherwise contains only the shell.
func standIn(t *testing.T, name, content string, mode os.FileMode) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func TestAsks(t *testing.T) {
	standIn(t, "netsh.exe", `#!/bin/sh
case "$*" in
"int ipv4 show excludedportrange protocol=udp") echo '  1628   1727' ;;
"int ipv4 show dynamicportrange protocol=tcp") printf 'a : 49152\nb : 16384\n' ;;
*) exit 1 ;;
esac
`, 0o755)
	if got, err := Excluded(t.Context(), "udp"); err != nil || len(got) != 1 || got[0] != (Range{1628, 1727, false}) {
		t.Errorf("excluded: %v, %v", got, err)
	}
	if got, err := Dynamic(t.Context(), "tcp"); err != nil || got != (Range{49152, 65535, false}) {
		t.Errorf("dynamic: %v, %v", got, err)
	}
	standIn(t, "netstat.exe", "#!/bin/sh\n[ \"$*\" = '-ano -p tcp' ] && echo 'TCP 0.0.0.0:135 0.0.0.0:0 LISTENING 4'\n", 0o755)
	if got, err := Listeners(t.Context(), "tcp"); err != nil || len(got) != 1 || got[0].PID != 4 {
		t.Errorf("listeners: %v, %v", got, err)
	}
	standIn(t, "wslinfo", "#!/bin/sh\n[ $1 = --networking-mode ] && echo mirrored || echo 2.9.4.0\n", 0o755)
	if g := LookAtGuest(t.Context()); !g.WSL || g.Mode != "mirrored" || g.ModeErr != nil || g.Release == "" {
		t.Errorf("%+v", g)
	}
	if version, err := Version(t.Context()); err != nil || version != "2.9.4.0" {
		t.Errorf("version: %q, %v", version, err)
	}
}

// Every failure of a program gives an error of one line that names the cause.
func TestProblems(t *testing.T) {
	tests := map[string]struct {
		content string
		mode    os.FileMode
		timeout time.Duration
		problem Problem
		text    string
	}{
		// A Windows program, and nothing that can run it.
		"disabled":      {"MZ\x90\x00\x03", 0o755, time.Minute, Disabled, "interop is off"},
		"slow":          {"#!/bin/sh\nexec sleep 1000\n", 0o755, 50 * time.Millisecond, Slow, "no answer in time from netsh.exe"},
		"slow children": {"#!/bin/sh\nsleep 90 & sleep 90\n", 0o755, 50 * time.Millisecond, Slow, "no answer in time"},
		"failing":       {"#!/bin/sh\necho; echo no socket; exit 3\n", 0o755, time.Minute, Failing, "cannot ask netsh.exe: exit status 3: no socket"},
		"failing in Japanese": {"#!/bin/sh\nprintf '\\203\\177\\n'; exit 1\n", 0o755, time.Minute, Failing,
			"cannot ask netsh.exe: exit status 1"},
		"killed":       {"#!/bin/sh\nkill -9 $$\n", 0o755, time.Minute, Failing, "signal: killed"},
		"unexpected":   {"#!/bin/sh\necho hello\n", 0o755, time.Minute, Unexpected, "cannot understand netsh.exe"},
		"silent":       {"#!/bin/sh\n", 0o755, time.Minute, Unexpected, "cannot understand netsh.exe"},
		"endless":      {"#!/bin/sh\nyes 1 2\n", 0o755, time.Minute, Unexpected, "more than 4 MiB"},
		"no program":   {"#!/bin/sh\n", 0o644, time.Minute, Absent, "no netsh.exe, neither in PATH nor in /mnt/c"},
		"its own loss": {"#!/nowhere/sh\n", 0o755, time.Minute, Failing, "cannot ask netsh.exe"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			standIn(t, "netsh.exe", test.content, test.mode)
			ctx, cancel := context.WithTimeout(t.Context(), test.timeout)
			defer cancel()
			began := time.Now()
			_, err := Excluded(ctx, "tcp")
			var e *Error
			if !errors.As(err, &e) || e.Problem != test.problem || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want problem %d with %q", err, test.problem, test.text)
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestSummary(t *testing.T) {
	absent := func(program string) error { return &Error{program, Absent, ""} }
	got := Summary(absent("netsh.exe"), absent("netsh.exe"), absent("netstat.exe"), &Error{"wslinfo", Slow, ""})
	want := []string{
		"no netsh.exe and netstat.exe, neither in PATH nor in /mnt/c/Windows/System32: Windows' drive is not mounted, or this is not WSL",
		"no answer in time from wslinfo",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q", got)
	}
	if got := Summary(); got == nil || len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}
