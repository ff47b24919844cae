package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// A daemon is a running "wslmirror run".
type daemon struct {
	t    *testing.T
	host *lab.Host
	dir  string
	proc *lab.Process
	log  *bytes.Buffer // complete after the daemon has ended
}

// start starts a daemon in h with the rights of the service, and waits until it publishes.
func start(t *testing.T, h *lab.Host, args ...string) *daemon {
	t.Helper()
	d := launch(t, h, func(args ...string) *exec.Cmd { return asService(t, args...) }, args...)
	d.await("any state", func(status.Snapshot) bool { return true })
	return d
}

func launch(t *testing.T, h *lab.Host, command func(...string) *exec.Cmd, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, host: h, dir: runtimeDir(t), log: new(bytes.Buffer)}
	cmd := command(append([]string{"run", "--runtime-dir", d.dir}, args...)...)
	cmd.Stderr = d.log
	var err error
	if d.proc, err = h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.proc.Stop(unix.SIGKILL)
		if t.Failed() {
			t.Logf("log of the daemon:\n%s", d.log)
		}
	})
	return d
}

// status returns the output of "wslmirror status".
func (d *daemon) status() (s status.Snapshot, exit int) {
	d.t.Helper()
	cmd := program(d.t, "status", "--json", "--runtime-dir", d.dir)
	out, err := cmd.Output()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		d.t.Fatal(err)
	}
	labtest.WantValid(d.t, "status", out)
	if err := json.Unmarshal(out, &s); err != nil {
		d.t.Fatalf("status says %q: %v", out, err)
	}
	return s, cmd.ProcessState.ExitCode()
}

// await waits until the daemon publishes a snapshot that ok accepts.
func (d *daemon) await(what string, ok func(status.Snapshot) bool) status.Snapshot {
	d.t.Helper()
	var s status.Snapshot
	came := false
	defer func() {
		if !came {
			d.t.Logf("the last state was %+v", s)
		}
	}()
	labtest.Eventually(d.t, "the daemon publishes "+what, func() bool {
		d.t.Helper()
		select {
		case <-d.proc.Done():
			d.t.Fatalf("ended before it came to %s: %v", what, d.proc.Wait())
		default:
		}
		// A daemon without a runtime directory publishes nothing.
		if status.Refresh(d.dir) != nil {
			return false
		}
		var err error
		s, err = status.Read(d.dir)
		return err == nil && ok(s)
	})
	came = true
	return s
}

func (d *daemon) awaitState(want status.State) status.Snapshot {
	d.t.Helper()
	return d.await(string(want), func(s status.Snapshot) bool { return s.State == want })
}

// stop ends the daemon with a signal that it handles.
func (d *daemon) stop(sig os.Signal) {
	d.t.Helper()
	if err := d.proc.Stop(sig); err != nil {
		d.t.Errorf("ended by %v: %v", sig, err)
	}
}

// ruleset returns the whole ruleset of h without its counters.
func ruleset(t *testing.T, h *lab.Host) string {
	t.Helper()
	out, err := h.Run("nft", "--stateless", "list", "ruleset")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func hasTable(t *testing.T, h *lab.Host) bool {
	t.Helper()
	return strings.Contains(ruleset(t, h), "table ip wslmirror {")
}

func TestStopsWithoutATrace(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
		b := labtest.New(t, lab.Options{})
		before := ruleset(t, b.WSL)
		d := start(t, b.WSL)
		if s, exit := d.status(); s.State != status.Active || exit != exitOK {
			t.Fatalf("state %s, exit %d", s.State, exit)
		}
		if !hasTable(t, b.WSL) {
			t.Fatal("active without a table")
		}
		d.stop(sig)
		if after := ruleset(t, b.WSL); after != before {
			t.Errorf("%v: before\n%s\nafter\n%s", sig, before, after)
		}
		if left, err := os.ReadDir(d.dir); err != nil || len(left) != 0 {
			t.Errorf("%v leaves %v in the runtime directory, %v", sig, left, err)
		}
		if s, exit := d.status(); s.State != status.Stopped || exit != exitNotActive {
			t.Errorf("then status says %s, exit %d", s.State, exit)
		}
	}
}

// The program installs the table that package nft's golden file contains.
func TestTableIsTheGoldenOne(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	start(t, b.WSL)
	out, err := b.WSL.Run("nft", "--stateless", "list", "table", "ip", "wslmirror")
	if err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile(filepath.Join("..", "..", "nft", "testdata", "mirror.nft"))
	if err != nil {
		t.Fatal(err)
	}
	_, rules, _ := strings.Cut(out, "\n")
	// The bench's eth0 is a veth, which may lead to a container. WSL's own eth0 is not.
	rules = strings.Replace(rules, "\t\telements = { \"eth0\" }\n", "", 1)
	_, want, _ := strings.Cut(string(golden), "\n")
	if rules != want {
		t.Errorf("nft lists\n%s\nwant\n%s", rules, want)
	}
}

func TestFollowsLoopback0(t *testing.T) {
	b := labtest.New(t, lab.Options{NoLoopback0: true})
	d := start(t, b.WSL)
	if s, exit := d.status(); s.State != status.Waiting || exit != exitNotActive || hasTable(t, b.WSL) {
		t.Fatalf("without loopback0: %+v, exit %d", s, exit)
	}
	var index int
	for range 3 {
		if err := b.AddLoopback0(); err != nil {
			t.Fatal(err)
		}
		s := d.awaitState(status.Active)
		if s.Interface.Index == index {
			t.Fatal("the bench gave loopback0 the same index again")
		}
		index = s.Interface.Index
		if list := ruleset(t, b.WSL); !strings.Contains(list, `iif "loopback0" ip daddr 127.0.0.1 counter dnat`) {
			t.Errorf("the rule is not for the loopback0 that is there:\n%s", list)
		}
		if err := b.Loopback0Down(); err != nil {
			t.Fatal(err)
		}
		if err := b.Loopback0Up(); err != nil {
			t.Fatal(err)
		}
		d.awaitState(status.Active)
		if err := b.RemoveLoopback0(); err != nil {
			t.Fatal(err)
		}
		d.awaitState(status.Waiting)
		if hasTable(t, b.WSL) {
			t.Error("the table outlives loopback0")
		}
	}
	d.stop(unix.SIGTERM)
}

func TestSurvivesWhatOthersDo(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	d := start(t, b.WSL)
	if err := b.DeleteTable(2 /* ip */, "wslmirror"); err == nil {
		t.Error("somebody else could delete the table")
	}
	if err := b.FlushRuleset(); err != nil {
		t.Fatal(err)
	}
	if !hasTable(t, b.WSL) {
		t.Error("'nft flush ruleset' took the table")
	}
	if s, _ := d.status(); s.State != status.Active || !s.Table.Installed {
		t.Errorf("status: %+v", s)
	}
	d.proc.Stop(unix.SIGKILL)
	if hasTable(t, b.WSL) {
		t.Error("kill -9 leaves the table")
	}
}

func TestCannotUseRuntimeDirectory(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := asService(t, "run", "--runtime-dir", file)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.WSL.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(unix.SIGKILL)
	labtest.Eventually(t, "it works without a runtime directory", func() bool { return hasTable(t, b.WSL) })
	if err := p.Cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	log, _ := io.ReadAll(stderr)
	if err := p.Wait(); err != nil || !strings.Contains(string(log), "could not publish the state") {
		t.Errorf("%v, log:\n%s", err, log)
	}
}
