package main

import (
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// For programs the times are always there. For people a time at which nothing
// began is none.
func TestTimesWithoutADaemon(t *testing.T) {
	labtest.NeedTime(t)
	silent := t.TempDir() // where the daemon hangs, and has published nothing
	l, err := net.Listen("unix", filepath.Join(silent, "wslmirror.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, dir := range map[string]string{"stopped": t.TempDir(), "silent": silent} {
		before := time.Now()
		_, stdout, _ := call("status", "--json", "--runtime-dir", dir)
		var got struct{ Since, Updated *time.Time }
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || got.Since == nil || got.Updated == nil {
			t.Fatalf("%s: %v, %s", name, err, stdout)
		}
		if !got.Since.Equal(*got.Updated) || got.Since.Before(before) || got.Since.After(time.Now()) {
			t.Errorf("%s: asked at %v: %s", name, before, stdout)
		}
		if _, stdout, _ = call("status", "--runtime-dir", dir); strings.Contains(stdout, "\n  since") {
			t.Errorf("%s: %s", name, stdout)
		}
	}
}
