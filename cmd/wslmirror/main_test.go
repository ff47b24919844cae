package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// The tests are of a terminal that shows UTF-8, but those that say otherwise.
func TestMain(m *testing.M) {
	os.Setenv("LC_ALL", "C.UTF-8")
	os.Unsetenv("WSLMIRROR_RUNTIME_DIR")
	os.Exit(m.Run())
}

// call runs the program in this process.
func call(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestUsageErrors(t *testing.T) {
	tests := []struct {
		args string
		want string // in the first line on standard error
	}{
		{"start", `unknown command "start"`},
		{"staus", `unknown command "staus" (did you mean status?)`},
		{"xyzzy", `unknown command "xyzzy"`},
		{"--json status", "put --json after the command"},
		{"run --colour", "run has no flag --colour"},
		{"run --pth direct", "run has no flag --pth (did you mean --path?)"},
		{"status --jsn", "status has no flag --jsn (did you mean --json?)"},
		{"status -jsn", "status has no flag --jsn (did you mean --json?)"},
		{"doctor --bundle", "--bundle needs an argument"},
		{"run extra", `run takes no argument "extra"`},
		{"run --interface=", "--interface: the name is empty"},
		{"run --interface sixteen-bytes-xx", "at most 15"},
		{"run --interface a/b", `must not contain '/'`},
		{"run --path warp", `"warp"`},
		{"run --repair=maybe", `--repair: "maybe" is neither true nor false`},
		{"run --log-level loud", `"loud" is not one of error, warning, info, debug`},
		{"run --to-windows all", "--to-windows: 'all' is not possible"},
		{"run --to-windows 0", `--to-windows: "0" is not a port`},
		{"run --to-windows 70000", `--to-windows: "70000" is not a port`},
		{"run --to-windows x", `--to-windows: "x" is not a port`},
		{"run --to-windows 80/sctp", `--to-windows: "80/sctp" is not a port`},
		{"run --to-windows 80/", `--to-windows: "80/" is not a port`},
		{"run --to-windows /udp", `--to-windows: "/udp" is not a port`},
		{"run --to-windows -80", `--to-windows: "-80" is not a port`},
		{"run --to-windows +80", `--to-windows: "+80" is not a port`},
		{"run --to-windows 80-90", `--to-windows: "80-90" is not a port`},
		{"run --to-windows 80,", `--to-windows: "" is not a port`},
		{"run --to-windows 80 81", `run takes no argument "81"`},
		{"run --to-windows " + someports(65), "--to-windows: the list has more than 64 ports"},
		{"run --except all", `--except: "all" is not a port`},
		{"run --except 80/tcp/udp", `--except: "80/tcp/udp" is not a port`},
		{"run --except " + someports(65), "--except: the list has more than 64 ports"},
		{"run --except 8080 --to-windows 8080", "--to-windows and --except both name 8080"},
		{"run --except 53 --to-windows 53/udp,80", "--to-windows and --except both name 53"},
		{"status --interface x", "status has no flag --interface"},
		{"status now", `status takes no argument "now"`},
		{"version 2", "takes no argument"},
		{"help me", `unknown command "me"`},
		{"help portss", `unknown command "portss" (did you mean ports?)`},
		{"log today", `log takes no argument "today"`},
		{"cleanup all", "takes no argument"},
	}
	for _, test := range tests {
		code, stdout, stderr := call(strings.Fields(test.args)...)
		lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
		exit := exitUsage
		if strings.HasPrefix(test.args, "run ") {
			exit = exitConfig // after which systemd does not restart the service
		}
		if code != exit || stdout != "" || len(lines) != 2 ||
			!strings.HasPrefix(lines[0], "wslmirror: ") || !strings.Contains(lines[0], test.want) ||
			!strings.HasPrefix(lines[1], "hint: ") {
			t.Errorf("wslmirror %s: exit %d, stdout %q, stderr %q; want exit %d, one line with %q and a hint", test.args, code, stdout, stderr, exit, test.want)
		}
	}
}

// someports is a list of n ports.
func someports(n int) string {
	list := "1000"
	for p := range n - 1 {
		list += "," + strconv.Itoa(1001+p)
	}
	return list
}

// What is right is understood as it is meant.
func TestParsePorts(t *testing.T) {
	const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP
	for list, test := range map[string]struct{ toWindows, except []ruleset.Port }{
		"":                 {},
		"1":                {[]ruleset.Port{{Proto: tcp, Number: 1}}, []ruleset.Port{{Proto: tcp, Number: 1}, {Proto: udp, Number: 1}}},
		"65535/tcp":        {[]ruleset.Port{{Proto: tcp, Number: 65535}}, []ruleset.Port{{Proto: tcp, Number: 65535}}},
		"53/udp, 53 ,53":   {[]ruleset.Port{{Proto: tcp, Number: 53}, {Proto: udp, Number: 53}}, []ruleset.Port{{Proto: tcp, Number: 53}, {Proto: udp, Number: 53}}},
		"81/udp,80/tcp,82": {[]ruleset.Port{{Proto: tcp, Number: 80}, {Proto: tcp, Number: 82}, {Proto: udp, Number: 81}}, []ruleset.Port{{Proto: tcp, Number: 80}, {Proto: tcp, Number: 82}, {Proto: udp, Number: 81}, {Proto: udp, Number: 82}}},
	} {
		for flag, want := range map[string][]ruleset.Port{"--to-windows": test.toWindows, "--except": test.except} {
			o, err := parseRun([]string{flag, list})
			got := o.toWindows
			if flag == "--except" {
				got = o.except
			}
			if err != nil || !slices.Equal(got, ruleset.PortSet(want...)) {
				t.Errorf("%s %q: %v, %v; want %v", flag, list, got, err, want)
			}
		}
	}
	if o, err := parseRun([]string{"--to-windows", someports(64), "--except", "53"}); err != nil || o.toWindows.Len() != 64 || o.except.Len() != 2 {
		t.Errorf("64 ports: %v, %v, %v", o.toWindows.Len(), o.except.Len(), err)
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range []string{"help", "--help", "-h", "help --help"} {
		code, stdout, stderr := call(strings.Fields(args)...)
		if code != exitOK || stdout != usage && args != "help --help" || stderr != "" {
			t.Errorf("wslmirror %s: exit %d, stderr %q, stdout %.40q...", args, code, stderr, stdout)
		}
	}
	if code, stdout, stderr := call(); code != exitUsage || stdout != "" || stderr != usage {
		t.Errorf("wslmirror alone: exit %d, stdout %q, stderr %.40q...", code, stdout, stderr)
	}
	// Of one command there is its part.
	for _, v := range verbs {
		_, want, _ := call("help", v.name)
		for _, args := range [][]string{{v.name, "--help"}, {v.name, "-h"}} {
			code, stdout, stderr := call(args...)
			if code != exitOK || stdout != want || stderr != "" || !strings.HasPrefix(stdout, "Usage:\n  wslmirror "+v.name) || !strings.Contains(stdout, "\n\n  "+v.name+" ") {
				t.Errorf("wslmirror %s: exit %d, stderr %q, stdout %q", args, code, stderr, stdout)
			}
		}
	}
	if _, stdout, _ := call("help", "ports"); !strings.Contains(stdout, "ports free [N]") || !strings.Contains(stdout, "--runtime-dir DIR") || strings.Contains(stdout, "doctor") {
		t.Errorf("help ports: %s", stdout)
	}
	for _, args := range []string{"version", "--version", "-v"} {
		code, stdout, stderr := call(args)
		if code != exitOK || stdout != "wslmirror "+version+"\n" || stderr != "" {
			t.Errorf("wslmirror %s: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
	for _, line := range strings.Split(usage, "\n") {
		if n := len([]rune(line)); n > 100 {
			t.Errorf("a line of the usage has %d characters: %s", n, line)
		}
	}
	for _, v := range verbs {
		if !strings.Contains(usage, "\n  "+v.name) {
			t.Errorf("the usage does not name %s", v.name)
		}
	}
}

// publish plays a daemon that publishes s.
func publish(t *testing.T, s status.Snapshot) (dir string) {
	dir = t.TempDir()
	err := status.Serve(t.Context(), dir, func(context.Context) {
		if err := status.Write(dir, s); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestStatus(t *testing.T) {
	now := time.Now()
	snapshot := func(state status.State, reason string, updated time.Time) status.Snapshot {
		return status.Snapshot{
			State: state, Reason: reason, Path: "proxy", Version: "1.2.3",
			Interface: status.Interface{Name: "loopback0", Index: 5, Present: true},
			Table:     status.Table{Family: "ip", Name: "wslmirror", Installed: state == status.Active},
			Rule:      status.Rule{Packets: 7, Bytes: 420},
			Since:     now.Add(-3 * time.Hour), Updated: updated,
		}
	}
	tests := map[string]struct {
		snapshot status.Snapshot
		code     int
		state    status.State
		text     []string
	}{
		"active": {snapshot(status.Active, "", now), exitOK, status.Active,
			[]string{"● active: rules are installed for packets that arrive on loopback0\n", "loopback0 ──▶ WSLPREROUTING", "ip wslmirror, installed", "7 new connections, 420 B", "3 h ago"}},
		"waiting": {snapshot(status.Waiting, "", now), exitNotActive, status.Waiting,
			[]string{"○ waiting: there is no loopback0; it exists only in the modes"}},
		"standby": {snapshot(status.Standby, "", now), exitNotActive, status.Standby,
			[]string{"○ standby: another wslmirror in this VM is active", "Nothing to do"}},
		"error": {snapshot(status.Error, "read chains: \x1b[31mbroken", now), exitFailure, status.Error,
			[]string{"✗ error: read chains: ?[31mbroken", "wslmirror log"}},
		"stale": {snapshot(status.Active, "", now.Add(-time.Hour)), exitFailure, status.Error,
			[]string{"✗ error", "published its state 1h0m"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := publish(t, test.snapshot)
			code, stdout, stderr := call("status", "--runtime-dir", dir)
			if code != test.code || stderr != "" {
				t.Errorf("exit %d, stderr %q; want exit %d", code, stderr, test.code)
			}
			for _, want := range test.text {
				if !strings.Contains(stdout, want) {
					t.Errorf("does not say %q:\n%s", want, stdout)
				}
			}
			if test.state != status.Active && strings.Contains(stdout, "WSLPREROUTING") {
				t.Errorf("shows a path that is not there:\n%s", stdout)
			}
			if strings.Contains(stdout, "\x1b") {
				t.Errorf("lets a control character through:\n%q", stdout)
			}

			code, stdout, stderr = call("status", "--json", "--runtime-dir", dir)
			labtest.WantValid(t, "status", []byte(stdout))
			var got status.Snapshot
			if err := json.Unmarshal([]byte(stdout), &got); err != nil {
				t.Fatalf("%v in %s", err, stdout)
			}
			if code != test.code || stderr != "" || got.State != test.state || got.Interface != test.snapshot.Interface {
				t.Errorf("--json: exit %d, stderr %q, %+v", code, stderr, got)
			}
			if !strings.Contains(stdout, `"ports": []`) {
				t.Errorf("--json: no empty list of ports:\n%s", stdout)
			}
		})
	}
}

func TestStatusWithoutADaemon(t *testing.T) {
	dir := t.TempDir()
	// A daemon that was killed has left its last word. It is not believed.
	if err := status.Write(dir, status.Snapshot{State: status.Active, Updated: time.Now()}); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dir, filepath.Join(dir, "missing")} {
		code, stdout, stderr := call("status", "--runtime-dir", dir)
		if code != exitNotActive || stderr != "" || !strings.HasPrefix(stdout, "○ stopped: ") {
			t.Errorf("exit %d, stderr %q, stdout %q", code, stderr, stdout)
		}
		code, stdout, _ = call("status", "--json", "--runtime-dir", dir)
		var got status.Snapshot
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitNotActive || got.State != status.Stopped {
			t.Errorf("--json: exit %d, %v, %+v", code, err, got)
		}
	}
}

func TestStatusOfADamagedFile(t *testing.T) {
	dir := t.TempDir()
	err := status.Serve(t.Context(), dir, func(context.Context) {
		os.WriteFile(filepath.Join(dir, "status.json"), []byte(`{"state":`), 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := call("status", "--runtime-dir", dir)
	if code != exitFailure || stdout != "" || !strings.Contains(stderr, "is damaged") || !strings.Contains(stderr, "\nhint: ") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestAdvice(t *testing.T) {
	mirrored := surroundings{wsl: true, mode: "mirrored", link: true, systemd: true}
	tests := map[string]struct {
		state status.State
		here  surroundings
		want  string // "" for no advice
	}{
		"active":                   {status.Active, mirrored, ""},
		"active, elsewhere":        {status.Active, surroundings{wsl: true, systemd: true}, "another network\n  namespace"},
		"standby":                  {status.Standby, mirrored, "takes over at once"},
		"error":                    {status.Error, mirrored, "wslmirror log"},
		"served from elsewhere":    {status.Stopped, surroundings{wsl: true, link: true, systemd: true, elsewhere: true}, "Nothing to do"},
		"not WSL":                  {status.Stopped, surroundings{systemd: true}, "This is not WSL"},
		"waiting, not WSL":         {status.Waiting, surroundings{systemd: true}, "This is not WSL"},
		"NAT":                      {status.Waiting, surroundings{wsl: true, mode: "nat", systemd: true}, "mode is nat,"},
		"mode unknown, no link":    {status.Stopped, surroundings{wsl: true, systemd: true}, "mode is probably none that shares localhost,"},
		"mirrored, no link":        {status.Waiting, surroundings{wsl: true, mode: "mirrored", systemd: true}, "no loopback0"},
		"mirrored, not running":    {status.Stopped, mirrored, "sudo systemctl enable --now wslmirror"},
		"mirrored, not WSL's name": {status.Stopped, surroundings{link: true, systemd: true}, "sudo systemctl enable --now wslmirror"},
		"no systemd":               {status.Stopped, surroundings{wsl: true, link: true}, "/etc/wsl.conf"},
		"has come just now":        {status.Waiting, mirrored, ""},
		"mode is hostile":          {status.Waiting, surroundings{wsl: true, mode: "\x1b]0;x"}, "mode is ?]0;x,"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := status.Snapshot{State: test.state, Interface: status.Interface{Name: "loopback0"}}
			got := advice(s, test.here)
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("advice is %q, want %q", got, test.want)
			}
		})
	}
}
