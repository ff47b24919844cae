package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
	"github.com/wslmirror/wslmirror/systemd"
)

// The exit codes that the command line promises. They are repeated here, because a changed
// code breaks scripts that rely on it.
const (
	exitOK        = 0
	exitFailure   = 1
	exitNotActive = 3
)

func TestMain(m *testing.M) {
	sandbox.Enter()
	if c := os.Getenv(crowdEnv); c != "" {
		if err := beCrowd(c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	for _, clean := range atExit {
		clean()
	}
	os.Exit(code)
}

// atExit are the functions to call after all tests.
var atExit []func()

// service is wslmirror with the rights of the service, and with the race detector if the
// tests have it. It is built once.
var service = sync.OnceValues(func() (*sandbox.Program, error) {
	dir, err := os.MkdirTemp("", "wslmirror-e2e-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	built := filepath.Join(dir, "wslmirror")
	if err := labtest.BuildLikeTest(built, "wslmirror"); err != nil {
		return nil, err
	}
	p, err := sandbox.New(built)
	if err != nil {
		return nil, err
	}
	atExit = append(atExit, func() { p.Close() })
	p.Filter, err = sandbox.OfUnit(systemd.Unit)
	return p, err
})

// plain is the released program, with the rights of the service.
var plain = sync.OnceValues(func() (*sandbox.Program, error) {
	s, err := service()
	if err != nil || !labtest.HasRaceDetector() {
		return s, err
	}
	p := *s
	p.Path = filepath.Join(filepath.Dir(s.Path), "plain")
	return &p, labtest.Build(p.Path, "wslmirror")
})

// program returns a command that runs wslmirror as root. The daemon and its cleanup use
// asService instead.
func program(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(must(t, service).Path, args...)
	cmd.Env = programEnv(os.Environ())
	return cmd
}

// programEnv spares a program with the race detector its wait of a second before each exit,
// and makes it print as for a UTF-8 terminal.
func programEnv(env []string) []string {
	return append(env, "GORACE=atexit_sleep_ms=0", "LC_ALL=C.UTF-8")
}

// must returns the result of service or plain, or ends the test.
func must(t testing.TB, program func() (*sandbox.Program, error)) *sandbox.Program {
	t.Helper()
	p, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// asNobody returns a function that makes commands that run wslmirror as an ordinary user,
// with only the named capabilities, for example "net_admin".
func asNobody(t testing.TB, capabilities ...string) func(args ...string) *exec.Cmd {
	t.Helper()
	s := must(t, service)
	return func(args ...string) *exec.Cmd {
		cmd := sandbox.Unprivileged(append([]string{s.Path}, args...), capabilities...)
		cmd.Env = programEnv(os.Environ())
		return cmd
	}
}

// asService returns a command that runs wslmirror with the rights of the service.
func asService(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := must(t, service).Command(args...)
	cmd.Env = programEnv(cmd.Env)
	return cmd
}

// runtimeDir returns the directory that systemd would create for the service.
func runtimeDir(t testing.TB) string {
	t.Helper()
	dir, err := must(t, service).RuntimeDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
