package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
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

// A daemon that is older than this program, and one that is younger.
func TestStatusOfAnotherVersion(t *testing.T) {
	published := func(document string) string {
		dir := t.TempDir()
		err := status.Serve(t.Context(), dir, func(context.Context) {
			if err := os.WriteFile(filepath.Join(dir, "status.json"), []byte(document), 0o644); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	now := time.Now().Format(time.RFC3339)
	dir := published(`{"state":"active","interface":{"name":"loopback0","index":3,"present":true},"mode":"mirrored","path":"proxy",` +
		`"table":{"family":"ip","name":"wslmirror","installed":true},"rule":{"packets":7,"bytes":420},` +
		`"directions":[{"name":"from-windows","active":true,"packets":7,"bytes":420}],"ports":[],"version":"0.1.0","since":"` + now + `","updated":"` + now + `"}`)
	code, stdout, stderr := call("status", "--runtime-dir", dir)
	if code != exitOK || stderr != "" {
		t.Errorf("older: exit %d, stderr %q", code, stderr)
	}
	labtest.WantAll(t, stdout, "active: ", "7 new connections, 420 B", "The daemon is older than this program", "sudo systemctl restart wslmirror")
	code, stdout, stderr = call("status", "--json", "--runtime-dir", dir)
	labtest.WantValid(t, "status", []byte(stdout))
	if code != exitOK || stderr != "" {
		t.Errorf("older, --json: exit %d, stderr %q", code, stderr)
	}

	dir = published(`{"schema":2,"state":{"is":"something else"}}`)
	for _, args := range []string{"status", "status --json"} {
		code, stdout, stderr = call(append(strings.Fields(args), "--runtime-dir", dir)...)
		if code != exitFailure || stdout != "" {
			t.Errorf("younger: exit %d, stdout %q", code, stdout)
		}
		labtest.WantAll(t, stderr, "the daemon publishes schema 2, but this program knows schema 1", "hint: sudo systemctl restart wslmirror")
	}
	if code, stdout, _ = call("ports", "--json", "--runtime-dir", dir); code != exitOK {
		t.Errorf("ports: exit %d", code)
	}
	labtest.WantValid(t, "ports", []byte(stdout))
}
