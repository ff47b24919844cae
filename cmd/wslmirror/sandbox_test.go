package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
	"github.com/wslmirror/wslmirror/systemd"
)

// service is the test binary where any user may run it, with the rights of the
// service.
var service = sync.OnceValues(func() (*sandbox.Program, error) {
	p, err := sandbox.New(os.Args[0])
	if err != nil {
		return nil, err
	}
	atExit = append(atExit, func() { p.Close() })
	p.Filter, err = sandbox.OfUnit(systemd.Unit)
	return p, err
})

// plain is the program as users get it, with the rights of the service.
var plain = sync.OnceValues(func() (*sandbox.Program, error) {
	s, err := service()
	if err != nil {
		return nil, err
	}
	p := *s
	p.Path = filepath.Join(filepath.Dir(s.Path), "plain")
	build := exec.Command("go", "build", "-o", p.Path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w: %s", err, out)
	}
	return &p, os.Chmod(p.Path, 0o755) // whatever the umask
})

// must is what service or plain returns, or the end of the test.
func must(t testing.TB, program func() (*sandbox.Program, error)) *sandbox.Program {
	t.Helper()
	p, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// asNobody makes commands that are wslmirror, run by an ordinary user with no
// capability but those named, for example "net_admin".
func asNobody(t testing.TB, capabilities ...string) func(args ...string) *exec.Cmd {
	t.Helper()
	s := must(t, service)
	return func(args ...string) *exec.Cmd {
		cmd := sandbox.Unprivileged(append([]string{s.Path}, args...), capabilities...)
		cmd.Env = programEnv(os.Environ())
		return cmd
	}
}

// asService is a command that is wslmirror with the rights of the service.
func asService(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := must(t, service).Command(args...)
	cmd.Env = programEnv(cmd.Env)
	return cmd
}

// runtimeDir is the directory that systemd would make for the service.
func runtimeDir(t testing.TB) string {
	t.Helper()
	dir, err := must(t, service).RuntimeDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// What the other tests start has the rights of the service.
func TestDaemonHasTheRightsOfTheService(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	d := start(t, b.WSL)
	labtest.HasRights(t, d.proc.Process.Pid, labtest.Filtered)
	d.stop(unix.SIGTERM)
}
