package labtest

import (
	"os"
	"os/exec"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// NeedTree skips a test that runs an engine or a distribution where a program
// that it takes is missing, and fails it where CI is set.
func NeedTree(tb testing.TB) {
	tb.Helper()
	NeedRoot(tb)
	for _, program := range []string{"mmdebstrap", "nsenter", "systemd-nspawn"} {
		if _, err := exec.LookPath(program); err == nil {
			continue
		} else if os.Getenv("CI") != "" {
			tb.Fatal(err)
		} else {
			tb.Skipf("%v: run 'sudo make deps'", err)
		}
	}
}

// StartDocker starts a real dockerd in the WSL of a bench.
func StartDocker(tb testing.TB, b *lab.Bench, flags ...string) *lab.Docker {
	tb.Helper()
	NeedTree(tb)
	d, err := b.WSL.StartDocker(flags...)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// StartEngine starts one of lab.Engines in the WSL of a bench.
func StartEngine(tb testing.TB, b *lab.Bench, kind string) lab.Engine {
	tb.Helper()
	NeedTree(tb)
	for _, e := range lab.Engines {
		if e.Name == kind {
			engine, err := e.Start(b.WSL)
			if err != nil {
				tb.Fatal(err)
			}
			return engine
		}
	}
	tb.Fatalf("no engine %q", kind)
	return nil
}

// RunContainer starts a container, published as Docker's option --publish says.
func RunContainer(tb testing.TB, d lab.Engine, name string, publish ...string) *lab.Container {
	tb.Helper()
	c, err := d.Run(name, publish...)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// Boot boots a distribution in the WSL of a bench.
func Boot(tb testing.TB, b *lab.Bench, name string) *lab.Distro {
	tb.Helper()
	NeedTree(tb)
	d, err := b.WSL.Boot(name)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}
