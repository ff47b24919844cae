package systemd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReadUnit(t *testing.T) {
	const invocation = "InvocationID=0123456789abcdef0123456789abcdef\n"
	tests := map[string]struct {
		show, journal string
		want          UnitState
		failed, again bool
	}{
		"running": {show: "ActiveState=active\nSubState=running\nResult=success\nExecMainStatus=0\nNRestarts=3\n" + invocation,
			journal: "not to be read", want: UnitState{Active: "active", Sub: "running", Result: "success", Restarts: 3}},
		"stopped": {show: "ActiveState=inactive\nSubState=dead\nResult=success\nStatusText=Stopping\n",
			want: UnitState{Active: "inactive", Sub: "dead", Result: "success"}},
		"first start": {show: "ActiveState=activating\nSubState=start\nResult=success\nNRestarts=0\n",
			want: UnitState{Active: "activating", Sub: "start", Result: "success"}},
		"stopping": {show: "ActiveState=deactivating\nSubState=stop-sigterm\nResult=success\nNRestarts=2\n",
			want: UnitState{Active: "deactivating", Sub: "stop-sigterm", Result: "success", Restarts: 2}},
		"bad option": {show: "ActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=78\nStatusText=Failed: not defined: -pth=a\n" + invocation,
			journal: "not to be read", failed: true,
			want: UnitState{Active: "failed", Sub: "failed", Result: "exit-code", ExitStatus: 78, LastLine: "not defined: -pth=a"}},
		"no status line": {show: "ActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=78\nStatusText=\n" + invocation,
			journal: "starting\nwslmirror: not defined: -pth\nhint: see 'wslmirror help'\n\n", failed: true,
			want: UnitState{Active: "failed", Sub: "failed", Result: "exit-code", ExitStatus: 78, LastLine: "not defined: -pth"}},
		// The status line of a killed run describes its state before that.
		"killed": {show: "ActiveState=activating\nSubState=auto-restart\nResult=signal\nExecMainStatus=9\nNRestarts=0\nStatusText=Serving\n" + invocation,
			journal: "wslmirror is starting\n", again: true,
			want: UnitState{Active: "activating", Sub: "auto-restart", Result: "signal", ExitStatus: 9, LastLine: "wslmirror is starting"}},
		"restarts": {show: "ActiveState=activating\nSubState=start\nResult=success\nNRestarts=7\n" + invocation, again: true,
			want: UnitState{Active: "activating", Sub: "start", Result: "success", Restarts: 7}},
		"queued": {show: "ActiveState=activating\nSubState=auto-restart-queued\nResult=exit-code\nExecMainStatus=1\n", again: true,
			want: UnitState{Active: "activating", Sub: "auto-restart-queued", Result: "exit-code", ExitStatus: 1}},
		"cleaning up": {show: "ActiveState=deactivating\nSubState=stop-post\nResult=core-dump\nExecMainStatus=6\n" + invocation, again: true,
			journal: "SIGABRT: abort\nPC=0x1 m=0\n\ngoroutine 1\n\nrip 0x1\n",
			want:    UnitState{Active: "deactivating", Sub: "stop-post", Result: "core-dump", ExitStatus: 6, LastLine: "SIGABRT: abort"}},
		"panic": {show: "ActiveState=activating\nSubState=auto-restart\nResult=exit-code\nExecMainStatus=2\n" + invocation, again: true,
			journal: "starting\npanic: nil map\n\ngoroutine 1 [running]:\nmain.main()\n",
			want:    UnitState{Active: "activating", Sub: "auto-restart", Result: "exit-code", ExitStatus: 2, LastLine: "panic: nil map"}},
		"not known": {show: "ActiveState=inactive\nSubState=dead\nResult=success\nExecMainStatus=0\nInvocationID=\n",
			want: UnitState{Active: "inactive", Sub: "dead", Result: "success"}},
		"nonsense": {show: "ActiveState\n=\nExecMainStatus=x\nfoo=bar"},
		"nothing":  {},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := readUnit(t.Context(), "w.service", func(_ context.Context, args ...string) (string, error) {
				switch {
				case args[0] == "systemctl" && slices.Contains(args, "w.service"):
					return test.show, nil
				case args[0] == "journalctl" && slices.Contains(args, "_SYSTEMD_INVOCATION_ID=0123456789abcdef0123456789abcdef"):
					return test.journal, nil
				}
				return "", errors.New("no such program")
			})
			if got.Failed() != test.failed || got.Restarting() != test.again {
				t.Errorf("failed %v, restarting %v", got.Failed(), got.Restarting())
			}
			got.invocation, got.statusText = "", ""
			if err != nil || got != test.want {
				t.Errorf("got %+v, %v\nwant %+v", got, err, test.want)
			}
		})
	}
}

// A user who may not read the journal still gets the rest.
func TestReadUnitWithoutAJournal(t *testing.T) {
	got, err := readUnit(t.Context(), "w.service", func(_ context.Context, args ...string) (string, error) {
		if args[0] == "systemctl" {
			return "ActiveState=failed\nInvocationID=1\n", nil
		}
		return "", errors.New("no permission")
	})
	if err != nil || !got.Failed() || got.LastLine != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

// If systemd hangs, refuses or is missing, ReadUnit returns in time.
func TestReadUnitEnds(t *testing.T) {
	for name, script := range map[string]string{
		"hangs": "sleep 60 & exec sleep 60", "hangs deaf": "trap '' TERM INT; while :; do sleep 1; done",
		"refuses": "echo Failed to connect to bus >&2; exit 1",
		"absent":  "",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if script != "" {
				if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\nPATH=/usr/bin:/bin\n"+script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", dir)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			began := time.Now()
			got, err := ReadUnit(ctx, "w.service")
			if err == nil || got != (UnitState{}) || !strings.HasPrefix(err.Error(), "ask systemd: ") {
				t.Errorf("%+v, %v", got, err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestManaged(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if Managed() {
		t.Error("without a socket")
	}
	t.Setenv("NOTIFY_SOCKET", "@x")
	if !Managed() {
		t.Error("with a socket")
	}
}
