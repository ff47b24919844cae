package chaos_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab/chaos"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// The daemons have the rights of the service and no others, and so has what cleans up
// behind them, which is over too soon to be looked at: this one is a script.
func TestRights(t *testing.T) {
	p := *program(t)
	script := filepath.Join(filepath.Dir(p.Path), "script")
	if err := os.WriteFile(script, []byte(`#!/bin/sh
[ $1 = cleanup ] && exec cat /proc/self/status
exec `+p.Path+` "$@"
`), 0o755); err != nil {
		t.Fatal(err)
	}
	p.Path = script
	said, err := chaos.DaemonAndCleanup(chaos.Config{Program: &p}, func(pid int) {
		labtest.HasRights(t, pid, labtest.Filtered)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := labtest.Rights(said); got != labtest.Filtered {
		t.Errorf("cleanup has the rights\n%s\nwant\n%s", got, labtest.Filtered)
	}
}
