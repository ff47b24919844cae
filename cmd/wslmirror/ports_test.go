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
	labtest.WantAll(t, stdout, "! warning: WSL 2.9.4.0 does not let Linux bind any tcp port of Windows' dynamic", "1024-15000")
	code, stdout, _ := call("ports", "explain", "--json", "8011", "--runtime-dir", t.TempDir())
	labtest.WantValid(t, "ports-explain", []byte(stdout))
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
		"failing":  {"#!/bin/sh\necho 'UtilConnectUnix: \033[31mconnect failed'; exit 1\n", "cannot ask netsh.exe and netstat.exe: exit status 1: UtilConnectUnix:\n  ?[31mconnect failed"},
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
			labtest.WantValid(t, "ports", []byte(stdout))
			var got portsJSON
			if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitOK || stderr != "" {
				t.Fatalf("--json: exit %d, %v, stderr %q", code, err, stderr)
			}
			if len(got.Windows.Problems) != 1 || got.Windows.TCP.Excluded != nil || got.Windows.UDP.Dynamic != nil {
				t.Errorf("--json: %+v", got.Windows)
			}
			code, stdout, _ = call("ports", "explain", "1", "--runtime-dir", t.TempDir())
			if code != exitUnknown {
				t.Errorf("explain: exit %d", code)
			}
			labtest.WantAll(t, stdout, "? 1/tcp is unknown: nothing in Linux uses it, but Windows may\n  Windows could not be asked whether it keeps this port: ", "The next port that nothing in Linux uses is 2.")
			code, stdout, stderr = call("ports", "free", "2", "--from", "7000", "--runtime-dir", t.TempDir())
			if code != exitUnknown || stderr != "" || !strings.HasPrefix(stdout, "? 7000\n? 7001\n  ") {
				t.Errorf("free: exit %d, %q, stderr %q", code, stdout, stderr)
			}
		})
	}
}

// With an answer of Windows, a free port is a line for a shell.
func TestPortsFree(t *testing.T) {
	labtest.PlayWindows(t, "en")
	dir := t.TempDir()
	code, stdout, stderr := call("ports", "free", "3", "--from", "1628", "--runtime-dir", dir)
	if code != exitOK || stdout != "1728\n1729\n1730\n" || stderr != "" {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
	code, stdout, _ = call("ports", "free", "--json", "--from", "1628/udp", "--runtime-dir", dir)
	labtest.WantValid(t, "ports-free", []byte(stdout))
	var got freeJSON
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitOK || got.State != ports.Free || got.Proto != "udp" || len(got.Ports) != 1 || got.Ports[0] != 1628 || got.Notes == nil {
		t.Errorf("--json: exit %d, %v, %s", code, err, stdout)
	}
	code, _, stderr = call("ports", "free", "9", "--from", "65530", "--runtime-dir", dir)
	if code != exitFailure || !strings.Contains(stderr, "from port 65530 on, only 0 of 9 ports are free") {
		t.Errorf("where there are none: exit %d, %q", code, stderr)
	}
	// To name a port is to ask about it.
	_, long, _ := call("ports", "explain", "1650", "--runtime-dir", dir)
	code, stdout, stderr = call("ports", "1650", "--runtime-dir", dir)
	if code != exitFailure || stderr != "" || stdout != long || !strings.HasPrefix(stdout, "✗ 1650/tcp is blocked\n") {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
}

func TestPortsUsage(t *testing.T) {
	for args, want := range map[string]string{
		"ports all":                    `ports takes no argument "all"`,
		"ports explian 80":             `ports takes no argument "explian" (did you mean explain?)`,
		"ports 80/sctp":                `"sctp" is not a protocol`,
		"ports free none":              `"none" is not a number of ports`,
		"ports free 0":                 `"0" is not a number of ports`,
		"ports free 1 2":               `no argument "2"`,
		"ports free --from x":          `"x" is not a port`,
		"ports --from 80":              "--from is for 'ports free'",
		"ports explain":                "needs a port",
		"ports explain 8080 8081":      `takes one port, and no argument "8081"`,
		"ports explain 0":              `"0" is not a port`,
		"ports explain 65536":          `"65536" is not a port`,
		"ports explain +80":            `"+80" is not a port`,
		"ports explain http":           `"http" is not a port`,
		"ports explain 80/":            `"" is not a protocol`,
		"ports explain 80/sctp":        `"sctp" is not a protocol`,
		"ports explain 80 --colour":    "ports has no flag --colour",
		"ports --interface loopback0":  "ports has no flag --interface",
		"ports explain -1":             "ports has no flag -1",
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
