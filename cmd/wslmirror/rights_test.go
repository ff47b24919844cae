package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// asNobody makes commands that are wslmirror, run by an ordinary user with no
// capability but those named, for example "+net_admin".
func asNobody(t *testing.T, capabilities ...string) func(args ...string) *exec.Cmd {
	t.Helper()
	// The test binary lies where only root may look.
	dir, err := os.MkdirTemp("", "wslmirror")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "wslmirror")
	from, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(bin, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	caps := strings.Join(append([]string{"-all"}, capabilities...), ",")
	return func(args ...string) *exec.Cmd {
		cmd := exec.Command("setpriv", append([]string{
			"--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs",
			"--bounding-set=" + caps, "--inh-caps=" + caps, "--ambient-caps=" + caps, bin,
		}, args...)...)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		return cmd
	}
}

func TestNeedsOneCapability(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	nobody := asNobody(t, "+net_admin")
	d := launch(t, b.WSL, func(args ...string) *exec.Cmd {
		// The runtime directory that systemd would make for it.
		dir := args[len(args)-1]
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		for ; dir != os.TempDir(); dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return nobody(args...)
	})
	d.awaitState(status.Active)
	if !hasTable(t, b.WSL) {
		t.Error("active without a table")
	}

	// Anybody may ask how it is.
	out, err := asNobody(t)("status", "--runtime-dir", d.dir).CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "● active: ") {
		t.Errorf("status as an ordinary user: %v: %s", err, out)
	}

	// Not anybody may be it.
	cmd := asNobody(t)("run", "--runtime-dir", t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	p, err := b.WSL.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if p.Wait(); p.Cmd.ProcessState.ExitCode() != exitFailure ||
		!strings.HasPrefix(stderr.String(), "wslmirror: no permission to change nftables (CAP_NET_ADMIN)\nhint: ") {
		t.Errorf("run without the capability: exit %d: %s", p.Cmd.ProcessState.ExitCode(), stderr.String())
	}
}
