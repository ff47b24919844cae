package main

import (
	"path/filepath"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// Whatever runs the daemon runs it with the rights of the service; the demo, without
// its filter.
func TestDaemonHasTheRightsOfTheService(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	if err := build(); err != nil {
		t.Fatal(err)
	}
	for verb, rights := range map[string]string{
		"demo": labtest.Unfiltered, "matrix": labtest.Filtered, "bench": labtest.Filtered,
		"chaos": labtest.Filtered, "soak": labtest.Filtered,
	} {
		program, err := findProgram(verb, filepath.Join(programs, "wslmirror"))
		if err != nil {
			t.Fatal(err)
		}
		d := daemon{host: b.WSL, program: program}
		if err := d.start(t.Context()); err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
		labtest.HasRights(t, d.process.Process.Pid, rights)
		if err := d.stop(t.Context()); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
		if err := program.Close(); err != nil {
			t.Error(err)
		}
	}
}
