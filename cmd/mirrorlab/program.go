package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
	"github.com/wslmirror/wslmirror/systemd"
)

// beside is the path of a program in the folder of this one.
func beside(program string) string {
	self, err := os.Executable()
	if err != nil {
		return program // to be looked for in $PATH
	}
	return filepath.Join(filepath.Dir(self), program)
}

// findProgram finds wslmirror for a verb, to be run with the rights of the service. It
// must be closed.
func findProgram(verb, name string) (*sandbox.Program, error) {
	if _, err := exec.LookPath("setpriv"); err != nil {
		return nil, hinted{err, "install util-linux, which has it"}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, hinted{fmt.Errorf("find wslmirror: %w", err), "run 'make build', or name it: mirrorlab " + verb + " --wslmirror PATH"}
	}
	// What the unit's groups of system calls consist of only systemd knows. The demo
	// is for every machine, also one that has another init, and is the same on all.
	var filter *sandbox.Filter
	if verb != "demo" {
		filter, err = sandbox.OfUnit(systemd.Unit)
	}
	if errors.Is(err, exec.ErrNotFound) {
		err = hinted{err, "install systemd, which has it; it need not run"}
	}
	if err != nil {
		return nil, err
	}
	p, err := sandbox.New(path)
	if err != nil {
		return nil, err
	}
	p.Filter = filter
	return p, nil
}
