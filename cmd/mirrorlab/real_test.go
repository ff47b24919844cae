package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
)

// programs is where build has put both programs, "" if it was not called.
var programs string

// build builds both programs as "make build" does, once.
var build = sync.OnceValue(func() (err error) {
	if programs, err = os.MkdirTemp("", "mirrorlab-test-"); err != nil {
		return err
	}
	return errors.Join(
		labtest.Build(filepath.Join(programs, "mirrorlab"), "mirrorlab"),
		labtest.Build(filepath.Join(programs, "wslmirror"), "wslmirror"),
	)
})

func TestMain(m *testing.M) {
	sandbox.Enter()
	if name := os.Getenv("STAND_IN"); name != "" {
		os.Exit(standIn(name, os.Args[1:]))
	}
	code := m.Run()
	os.RemoveAll(programs)
	os.Exit(code)
}

// program is a command of the real mirrorlab. When it has ended, the test
// checks that nothing is left of it.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	labtest.NeedRoot(t)
	if err := build(); err != nil {
		t.Fatal(err)
	}
	tmp, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// What any user may run must lie where any user may enter.
	if err := os.Chmod(filepath.Dir(tmp), 0o755); err != nil {
		t.Fatal(err)
	}
	mounts := readFile(t, "/proc/self/mounts")
	ctx, cancel := context.WithTimeout(context.Background(), labtest.Patience())
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "mirrorlab"), args...)
	// TMPDIR marks its processes too, which inherit it.
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "SHELL=/bin/sh")
	cmd.WaitDelay = time.Second
	t.Cleanup(func() {
		cancel()
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
			t.Errorf("files are left: %v, error %v", left, err)
		}
		if now := readFile(t, "/proc/self/mounts"); now != mounts {
			t.Errorf("mounts before:\n%s\nand after:\n%s", mounts, now)
		}
		// With its last process, and no mount, a namespace is gone too.
		environs, err := filepath.Glob("/proc/[0-9]*/environ")
		if err != nil || len(environs) == 0 {
			t.Fatal("no processes", err)
		}
		for _, file := range environs {
			environ, err := os.ReadFile(file)
			if err == nil && bytes.Contains(environ, []byte("TMPDIR="+tmp+"\x00")) {
				t.Errorf("still there: %s", readFile(t, filepath.Join(filepath.Dir(file), "cmdline")))
			}
		}
	})
	return cmd
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		return exit.ExitCode()
	}
	return 0
}

// The real demo with the real wslmirror.
func TestDemo(t *testing.T) {
	cmd := program(t, "demo")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if code := exitCode(t, cmd.Run()); code != exitOK {
		t.Fatalf("exit %d:\n%s%s", code, out.String(), errs.String())
	}
	if want := "\n" + render(expected(lab.Mirrored), "", false); out.String() != want {
		t.Errorf("stdout:\n%s\nwant:\n%s", out.String(), want)
	}
	steps := regexp.MustCompile(`^(✓ [^\n]+ \(\d+\.\d s\)\n){6}$`)
	if !steps.MatchString(errs.String()) {
		t.Errorf("stderr is not six steps:\n%s", errs.String())
	}
}

// Programs that are not wslmirror, or a broken one.
func TestDemoFails(t *testing.T) {
	for name, test := range map[string]struct {
		script string // in place of wslmirror
		stderr string
		stdout string
	}{
		"ends":            {"echo no kernel; exit 1", "wslmirror ended: exit status 1: no kernel\n", ""},
		"is never active": {"[ $1 = status ] && exit 3; exec sleep 1000", "wslmirror does not become active: context deadline exceeded\n", ""},
		"is killed":       {"[ $1 = status ] && echo {} || exec sleep 1000", "wslmirror ended: signal: terminated", ""},
		// It says that it is active and stops well, but does nothing.
		"idle": {"[ $1 = status ] && echo {} && exit; trap 'kill $!; exit 0' TERM; sleep 1000 & wait",
			"mirrorlab: Windows → container 8080/tcp, with wslmirror: ✗ no answer, and it should be: ✓ answers\n" +
				"mirrorlab: Windows → container 5353/udp, with wslmirror: ✗ no answer, and it should be: ✓ answers\n",
			"\n  Windows   → container    8080/tcp  ✗ no answer    ✗ no answer    ✗ no answer\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script := filepath.Join(t.TempDir(), "script")
			if err := os.WriteFile(script, []byte("#!/bin/sh\n"+test.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := program(t, "demo", "--wslmirror", script)
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			code := exitCode(t, cmd.Run())
			if code != exitFailure || !strings.Contains(errs.String(), test.stderr) || !strings.Contains(out.String(), test.stdout) {
				t.Errorf("exit %d:\n%s%s", code, out.String(), errs.String())
			}
			if strings.Contains(out.String(), verdict) {
				t.Errorf("the verdict is good:\n%s", out.String())
			}
		})
	}
}

// ^C in the middle.
func TestDemoInterrupted(t *testing.T) {
	for _, signal := range []unix.Signal{unix.SIGINT, unix.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			cmd := program(t, "demo")
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(stderr)
			if _, err := lines.ReadString('\n'); err != nil { // the bench is there
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(lines)
			if err != nil {
				t.Fatal(err)
			}
			if code := exitCode(t, cmd.Wait()); code != exitFailure || !strings.HasSuffix(string(rest), "\nmirrorlab: interrupted\n") {
				t.Errorf("exit %d:\n%s", code, rest)
			}
		})
	}
}

// ask says who answers on a port of 127.0.0.1, as an ordinary program there.
const askScript = `
ask() {
	$1 timeout ${3:-30} bash -c 'exec 3<>/dev/tcp/127.0.0.1/$0 && echo who are you >&3 && read -r who <&3 && echo "$who"' $2 ||
		echo nobody
}
`

func TestShell(t *testing.T) {
	cmd := program(t, "shell")
	cmd.Stdin = strings.NewReader(askScript + `
until [ "$(ask '' 9000)" = WSL ]; do :; done 2>/dev/null # until Windows knows the ports
ask '' 8080
ask windows 8080 1 # which hangs
ask windows 9000
wslmirror run 2>/dev/null & # as the hint has it
until wslmirror status >/dev/null; do :; done
ask windows 8080
sleep 1000 &
exit 7
`)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if code := exitCode(t, cmd.Run()); code != 7 {
		t.Errorf("exit %d, want the shell's own: 7", code)
	}
	if want := "container\nnobody\nWSL\ncontainer\n"; out.String() != want {
		t.Errorf("answers %q, want %q; stderr:\n%s", out.String(), want, errs.String())
	}
	if !strings.HasPrefix(errs.String(), "This shell is in WSL") {
		t.Errorf("no hint:\n%s", errs.String())
	}
}

func TestShellInterrupted(t *testing.T) {
	cmd := program(t, "shell")
	cmd.Stdin = strings.NewReader("echo ready; sleep 1000; echo not interrupted")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	if line, err := lines.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatal(line, err)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, cmd.Wait()); code != exitFailure || len(rest) > 0 || !strings.HasSuffix(errs.String(), "\nmirrorlab: interrupted\n") {
		t.Errorf("exit %d, %q:\n%s", code, rest, errs.String())
	}
}
