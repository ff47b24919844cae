package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

func TestNeedsOneCapability(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Publish("tcp", "0.0.0.0:8080"); err != nil {
		t.Fatal(err)
	}
	d := launch(t, b.WSL, func(args ...string) *exec.Cmd { return asNobody(t, "net_admin")(args...) }, "--path", "direct")
	d.awaitPaths("8080/tcp direct")
	if !hasTable(t, b.WSL) {
		t.Error("active without a table")
	}
	answers(t, "with one capability", b.Windows, "tcp", "8080", engine.Container.Name)

	// Any user may run status.
	out, err := asNobody(t)("status", "--runtime-dir", d.dir).CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "● active: ") {
		t.Errorf("status as an ordinary user: %v: %s", err, out)
	}

	// Only a user with the right may run the daemon.
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

// Commands that need rights say so in one line, and how to get them.
func TestVerbsWithoutTheRight(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	dir := t.TempDir()
	for _, args := range [][]string{{"cleanup"}, {"run", "--runtime-dir", dir}, {"hold", "--runtime-dir", dir}} {
		says := "wslmirror: no permission to change nftables (CAP_NET_ADMIN)"
		if args[0] == "hold" {
			says = "wslmirror: no permission to write in " + status.HoldDir(dir)
		}
		cmd := asNobody(t)(args...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		p, err := b.WSL.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		p.Wait()
		lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
		if code := p.Cmd.ProcessState.ExitCode(); code != exitFailure || stdout.Len() > 0 || len(lines) != 2 ||
			lines[0] != says ||
			!strings.HasPrefix(lines[1], "hint: ") || !strings.Contains(lines[1], "run it with sudo") {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", args[0], code, stdout.String(), stderr.String())
		}
	}
}

// The programs that the other tests start have the rights of the service.
func TestDaemonHasTheRightsOfTheService(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	d := start(t, b.WSL)
	labtest.HasRights(t, d.proc.Process.Pid, labtest.Filtered)
	d.stop(unix.SIGTERM)
}

// Without systemd the program itself drops the rights that the service does not have, and
// works as well.
func TestRootGivesUpItsRights(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Publish("tcp", "0.0.0.0:8080"); err != nil {
		t.Fatal(err)
	}
	asRoot := func(args ...string) *exec.Cmd { return program(t, args...) }
	d := launch(t, b.WSL, asRoot, "--path", "direct")
	d.awaitPaths("8080/tcp direct")
	answers(t, "without root's rights", b.Windows, "tcp", "8080", engine.Container.Name)
	labtest.HasRights(t, d.proc.Process.Pid, labtest.Filtered)
	d.stop(unix.SIGTERM)
	if hasTable(t, b.WSL) {
		t.Error("the table is left")
	}

	// --user names another user, or root.
	for name, want := range map[string]string{
		"61999": strings.ReplaceAll(labtest.Filtered, "65534", "61999"),
		"root":  "",
	} {
		dir := runtimeDir(t) + "-" + name // a directory that any user may enter
		cmd := program(t, "run", "--user", name, "--runtime-dir", dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		p, err := b.WSL.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		labtest.Eventually(t, name+" has a table", func() bool { return hasTable(t, b.WSL) })
		if want != "" {
			labtest.HasRights(t, p.Process.Pid, want)
		} else if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid)); err != nil || !strings.Contains(labtest.Rights(string(status)), "Uid: 0 0 0 0") {
			t.Errorf("--user root: %v\n%s", err, status)
		}
		if p.Stop(unix.SIGTERM); p.Cmd.ProcessState.ExitCode() != exitOK {
			t.Errorf("--user %s: exit %d: %s", name, p.Cmd.ProcessState.ExitCode(), stderr.String())
		}
	}

	// Only root can use --user.
	cmd := asNobody(t, "net_admin")("run", "--user", "61999", "--runtime-dir", t.TempDir())
	if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != exitFailure || !strings.HasPrefix(string(out), "wslmirror: --user: only root can become another user\nhint: ") {
		t.Errorf("%v: %s", err, out)
	}
}
