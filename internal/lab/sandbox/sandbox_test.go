package sandbox_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
	"github.com/wslmirror/wslmirror/systemd"
)

func TestMain(m *testing.M) {
	sandbox.Enter()
	os.Exit(m.Run())
}

// newBash is a shell with the rights of the service.
func newBash(t *testing.T) *sandbox.Program {
	t.Helper()
	labtest.NeedRoot(t)
	p, err := sandbox.New("/bin/bash")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(p.Path); err == nil {
			t.Errorf("%s is left", p.Path)
		}
	})
	if p.Filter, err = sandbox.OfUnit(systemd.Unit); err != nil {
		t.Fatal(err)
	}
	return p
}

// The filter refuses what the unit forbids, and so do the rights.
func TestSandbox(t *testing.T) {
	p := newBash(t)
	dir, err := p.RuntimeDir()
	if err != nil {
		t.Fatal(err)
	}
	for script, want := range map[string]string{
		"nice -n 1 true 2>&1":                         "cannot set niceness",
		"exec 3<>/dev/tcp/127.0.0.1/1":                "not supported",
		"ip link show lo":                             "LOOPBACK",
		"cat /proc/self/stat > /etc/x":                "denied",
		"echo yes > " + dir + "/x; cat " + dir + "/x": "yes",
		"env": "PATH=",
	} {
		out, _ := p.Command("-c", script).CombinedOutput()
		if !strings.Contains(string(out), want) || strings.Contains(string(out), "_FILTER=") {
			t.Errorf("%s says %q, want %q", script, out, want)
		}
	}
	for want, filter := range map[string]*sandbox.Filter{labtest.Filtered: p.Filter, labtest.Unfiltered: nil} {
		p.Filter = filter
		out, err := p.Command("-c", "cat /proc/self/status").Output()
		if err != nil || labtest.Rights(string(out)) != want {
			t.Errorf("%v, rights\n%s\nwant\n%s", err, labtest.Rights(string(out)), want)
		}
	}
}

// The process is the program from the beginning, and ends as that.
func TestIsOneProcess(t *testing.T) {
	cmd := newBash(t).Command("-c", "echo $$; exit 7")
	out, err := cmd.Output()
	if pid := strings.TrimSpace(string(out)); cmd.ProcessState.ExitCode() != 7 || pid != strconv.Itoa(cmd.Process.Pid) {
		t.Errorf("process %d says that it is %q, %v", cmd.Process.Pid, pid, err)
	}
}

// Where users may not go the daemon could not run.
func TestNobodyMayEnter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root's")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	if _, err := sandbox.New("/bin/sh"); err == nil || !strings.Contains(err.Error(), "may not enter "+dir+": TMPDIR") {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// What a unit says that is not understood is no filter with a hole.
func TestUnknown(t *testing.T) {
	for unit, want := range map[string]string{
		"RestrictAddressFamilies=AF_PACKET": "AF_PACKET",
		"SystemCallFilter=":                 "not understood",
		"SystemCallFilter = @process":       "not understood",
		"SystemCallFilter=~@process \\":     "not understood",
		"SystemCallFilter=@no-such-group":   "ask systemd what @no-such-group is",
	} {
		if f, err := sandbox.OfUnit(unit); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", unit, f, err)
		}
	}
}
