package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/ports"
)

// A WSL that keeps Windows' dynamic range from Linux, and a large such range.
func TestPortsRefusedByWSL(t *testing.T) {
	labtest.PlayWindows(t, "ja")
	t.Setenv("WSL_VERSION", "2.9.4.0")
	_, stdout, _ := call("ports", "--runtime-dir", t.TempDir())
	labtest.WantAll(t, stdout, "✗ WSL 2.9.4.0 refuses to Linux every tcp port of Windows' dynamic range, 1024-15000")
	code, stdout, _ := call("ports", "explain", "--json", "8011", "--runtime-dir", t.TempDir())
	var v ports.Verdict
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != exitFailure || v.State != ports.Blocked || v.Next != 15001 {
		t.Errorf("exit %d, %v, %+v", code, err, v)
	}
}

// Windows is not there, or not willing: one line says so and the rest goes on.
func TestPortsWithoutWindows(t *testing.T) {
	for name, test := range map[string]struct{ netsh, says string }{
		"absent":   {"", "no netsh.exe and netstat.exe, neither in PATH nor in /mnt/c/Windows/System32"},
		"disabled": {"MZ\x90\x00", "Windows' programs cannot be run: WSL's interop is off"},
		"slow":     {"#!/bin/sh\nexec sleep 1000\n", "no answer in time from netsh.exe and netstat.exe"},
		"failing":  {"#!/bin/sh\necho 'UtilConnectUnix: \033[31mconnect failed'; exit 1\n", "cannot ask netsh.exe and netstat.exe: exit status 1: UtilConnectUnix: ?[31mconnect failed"},
		"babbling": {"#!/bin/sh\necho hello\n", "cannot understand netsh.exe and netstat.exe"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "slow" {
				labtest.NeedTime(t)
			}
			if test.netsh != "" {
				labtest.Programs(t, map[string]string{"netsh.exe": test.netsh, "netstat.exe": test.netsh})
			}
			began := time.Now()
			code, stdout, stderr := call("ports", "--runtime-dir", t.TempDir())
			if code != exitOK || stderr != "" {
				t.Errorf("exit %d, stderr %q", code, stderr)
			}
			labtest.WantAll(t, stdout, "Ports in Linux", "Source ports of Linux", "Ports in Windows\n  "+test.says)
			if n := strings.Count(stdout, "netsh.exe") + strings.Count(stdout, "interop is off"); n != 1 || strings.Contains(stdout, "\x1b") {
				t.Errorf("said %d times:\n%q", n, stdout)
			}
			if took := time.Since(began); took > labtest.Patience() {
				t.Errorf("took %v", took)
			}
			if name == "slow" {
				return // and would be so again
			}
			code, stdout, stderr = call("ports", "--json", "--runtime-dir", t.TempDir())
			var got portsJSON
			if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitOK || stderr != "" {
				t.Fatalf("--json: exit %d, %v, stderr %q", code, err, stderr)
			}
			if len(got.Windows.Problems) != 1 || got.Windows.TCP.Excluded != nil || got.Windows.UDP.Dynamic != nil {
				t.Errorf("--json: %+v", got.Windows)
			}
			code, stdout, _ = call("ports", "explain", "1", "--runtime-dir", t.TempDir())
			if code != exitOK {
				t.Errorf("explain: exit %d", code)
			}
			labtest.WantAll(t, stdout, "note: Windows has not told all: ")
		})
	}
}

func TestPortsUsage(t *testing.T) {
	for args, want := range map[string]string{
		"ports all":                    `ports takes no argument "all"`,
		"ports explain":                "needs a port",
		"ports explain 8080 8081":      `takes one port, and no argument "8081"`,
		"ports explain 0":              `"0" is not a port`,
		"ports explain 65536":          `"65536" is not a port`,
		"ports explain +80":            `"+80" is not a port`,
		"ports explain http":           `"http" is not a port`,
		"ports explain 80/":            `"" is not a protocol`,
		"ports explain 80/sctp":        `"sctp" is not a protocol`,
		"ports explain 80 --colour":    "not defined: -colour",
		"ports --interface loopback0":  "not defined: -interface",
		"ports explain -1":             "not defined: -1",
		"ports explain 80/tcp/udp":     `"tcp/udp" is not a protocol`,
		"ports explain \x1b[31m":       `"\x1b[31m" is not a port`,
		"ports explain 99999999999999": "is not a port",
	} {
		code, stdout, stderr := call(strings.Fields(args)...)
		lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
		if code != exitUsage || stdout != "" || len(lines) != 2 || !strings.Contains(lines[0], want) || !strings.HasPrefix(lines[1], "hint: ") {
			t.Errorf("wslmirror %s: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}
