package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/systemd"
)

// Each reason why this kernel or this user is unsuitable has a hint that can help.
func TestExplain(t *testing.T) {
	for err, hint := range map[error]string{
		nft.ErrNoNFTables: "run 'sudo modprobe nf_tables'; if that fails, update the kernel: 'wsl --update' in Windows",
		nft.ErrNoOwner:    "update the kernel: 'wsl --update' in Windows",
		nft.ErrPermission: "start the service (sudo systemctl start wslmirror), or run it with sudo",
		unix.ENOSYS:       "run 'wsl.exe --shutdown' and start WSL again",
		unix.EIO:          "",
	} {
		var h hinted
		errors.As(explain(fmt.Errorf("check: %w", err)), &h)
		if !strings.HasPrefix(h.hint, hint) || hint == "" && h.hint != "" {
			t.Errorf("%v: hint %q, want %q", err, h.hint, hint)
		}
	}
}

// What a service that does not run comes to, in words and in advice.
func TestTrouble(t *testing.T) {
	mirrored := surroundings{wsl: true, mode: "mirrored", link: true, systemd: true}
	const enable, options, restart = "systemctl enable --now", "Correct WSLMIRROR_OPTS in /etc/default/wslmirror", "sudo systemctl restart wslmirror"
	for name, test := range map[string]struct {
		unit   systemd.UnitState
		want   string
		advice []string
	}{
		"not asked": {systemd.UnitState{}, "", []string{enable}},
		"stopped":   {systemd.UnitState{Active: "inactive", Result: "success"}, "", []string{enable}},
		"starts":    {systemd.UnitState{Active: "activating", Sub: "start", Result: "success"}, "", []string{enable}},
		"bad option": {systemd.UnitState{Active: "failed", Sub: "failed", Result: "exit-code", ExitStatus: exitConfig, LastLine: "not defined: -pth"},
			`the service has failed (exit status 78); its last log line is "not defined: -pth"`, []string{options, restart}},
		"bad option, journal hidden": {systemd.UnitState{Active: "failed", Result: "exit-code", ExitStatus: exitConfig},
			"the service has failed (exit status 78)", []string{options, restart}},
		"signal 78": {systemd.UnitState{Active: "failed", Result: "signal", ExitStatus: exitConfig},
			"the service has failed (signal)", []string{"wslmirror log --since 1h", restart}},
		"no right": {systemd.UnitState{Active: "activating", Sub: "auto-restart", Result: "exit-code", ExitStatus: 1, Restarts: 5, LastLine: "no permission"},
			`the service has failed and systemd is restarting it (exit status 1), 5 restarts so far; its last log line is "no permission"`, []string{"wslmirror log --since 1h", restart}},
		"ended by hand": {systemd.UnitState{Active: "activating", Sub: "auto-restart", Result: "success"},
			"the service has ended and systemd is restarting it", []string{"wslmirror log --since 1h"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := stopped()
			s.Reason = trouble(test.unit)
			if s.Reason != test.want {
				t.Errorf("trouble is %q, want %q", s.Reason, test.want)
			}
			here := mirrored
			here.unit = test.unit
			var out bytes.Buffer
			if err := printStatus(&out, screen{width: 200}, s, here); err != nil {
				t.Fatal(err)
			}
			if want := "○ stopped: " + cmp.Or(test.want, "wslmirror is not running") + "\n"; !strings.HasPrefix(out.String(), want) {
				t.Errorf("says:\n%s", out.String())
			}
			for _, want := range test.advice {
				if !strings.Contains(out.String(), want) {
					t.Errorf("does not say %q:\n%s", want, out.String())
				}
			}
			if strings.Contains(out.String(), enable) != (test.want == "") {
				t.Errorf("says:\n%s", out.String())
			}
		})
	}
}

// The unit and the program mean the same exit status.
func TestUnitKnowsBadOptions(t *testing.T) {
	if want := fmt.Sprintf("\nRestartPreventExitStatus=%d\n", exitConfig); !strings.Contains(systemd.Unit, want) {
		t.Errorf("the unit has no %q", want)
	}
}

// systemd is told why the service ends, and --help is no reason to end well: systemd
// would restart it for ever.
func TestRunTellsSystemdWhyItEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	for arg, want := range map[string]string{"--pth": "run has no flag --pth (did you mean --path?)", "--help": "a service cannot use --help"} {
		code, stdout, stderr := call("run", arg)
		if code != exitConfig || stdout != "" || !strings.HasPrefix(stderr, "wslmirror: "+want+"\nhint: ") {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", arg, code, stdout, stderr)
		}
		b := make([]byte, 1000)
		manager.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := manager.Read(b); err != nil || string(b[:n]) != "STATUS=Failed: "+want {
			t.Errorf("%s: systemd gets %q, %v", arg, b[:n], err)
		}
	}
}

// Another directory than the service's is another daemon's.
func TestOnlyTheServiceIsAskedAbout(t *testing.T) {
	if u, err := readService(t.Context(), t.TempDir()); err != nil || u != (systemd.UnitState{}) {
		t.Errorf("%+v, %v", u, err)
	}
	if got := trouble(systemd.UnitState{}); got != "" {
		t.Errorf("%q", got)
	}
	if s := stopped(); s.State != status.Stopped || s.Reason != "" {
		t.Errorf("%+v", s)
	}
}
