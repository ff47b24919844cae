package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
)

// Any arguments: what is not understood is refused in one line, and what is, is
// what the daemon can use.
func FuzzRunFlags(f *testing.F) {
	for _, args := range []string{"", "--interface\x00loopback0\x00--path\x00direct", "--repair=false\x00--log-level=debug", "-h", "--runtime-dir=" + labtest.Hostile, "x", "--\x00y", "--interface=" + labtest.Hostile, "--path=" + labtest.Hostile,
		"--to-windows=53/udp,80\x00--except=22", "--to-windows=" + labtest.Hostile, "--except=1/" + labtest.Hostile} {
		f.Add(args)
	}
	f.Fuzz(func(t *testing.T, args string) {
		o, err := parseRun(strings.Split(args, "\x00"))
		if err == nil {
			if netwatch.CheckLinkName(o.iface) != nil || o.path != status.PathProxy && o.path != status.PathDirect {
				t.Errorf("accepts %+v", o)
			}
			return
		}
		var stdout, stderr bytes.Buffer
		code := run(append([]string{"run"}, strings.Split(args, "\x00")...), &stdout, &stderr)
		if r, found := labtest.Unprintable(stderr.String()); found {
			t.Errorf("says %q: %q", r, stderr.String())
		}
		switch {
		case code == exitOK && stdout.String() == usageOf("run"): // --help
		case code != exitConfig || stdout.Len() > 0 || strings.Count(stderr.String(), "\n") != 2:
			t.Errorf("exit %d: %s", code, stderr.String())
		}
	})
}

func FuzzParsePort(f *testing.F) {
	for _, s := range []string{"8080", "5353/udp", "0", "+1", "65536/tcp", "1/sctp", "/", labtest.Hostile} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if port, proto, err := parsePort(s); err == nil && (port == 0 || proto != "tcp" && proto != "udp") {
			t.Errorf("%q is %d/%s", s, port, proto)
		}
	})
}
