package e2e

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// readsOnly are the files that the daemon only reads. Our code does not ask for them: the
// Go runtime and the standard library do, at the start.
var readsOnly = map[string]string{
	"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size": "runtime: the size of a huge page",
	"/proc/self/cgroup":            "runtime: whether GODEBUG's containermaxprocs makes a difference",
	"/proc/self/mountinfo":         "runtime: the same",
	"/sys/fs/cgroup/":              "runtime: the same",
	"/etc/localtime":               "time: the log's time",
	"/proc/sys/net/core/somaxconn": "net: the backlog of a socket that listens",
}

// This runs the released program from start to stop. All files that it opens, creates,
// renames or removes are in its runtime directory.
func TestOpensNothingElse(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	program := must(t, plain)
	bin := program.Path
	trace := filepath.Join(t.TempDir(), "calls")
	d := launch(t, b.WSL, func(args ...string) *exec.Cmd {
		cmd := program.Command(args...)
		// -D: the daemon is our child, not strace.
		traced := exec.Command("strace", append([]string{"-D", "-f", "-q", "-o", trace, "-e", "trace=%file", "--signal=none"}, cmd.Args...)...)
		traced.Env = cmd.Env
		return traced
	}, "--path", "direct")
	d.awaitState(status.Active)
	if err := engine.Publish("tcp", "0.0.0.0:8080"); err != nil {
		t.Fatal(err)
	}
	d.awaitPaths("8080/tcp direct")
	if err := b.RemoveLoopback0(); err != nil {
		t.Fatal(err)
	}
	d.awaitState(status.Waiting)
	tracer := tracerOf(t, d.proc.Process.Pid)
	d.stop(unix.SIGTERM)
	labtest.Eventually(t, "strace ends", func() bool { return !alive(tracer) }) // it is not our child, so we cannot wait for it
	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	_, life, ok := strings.Cut(string(calls), `execve("`+bin+`"`)
	if !ok {
		t.Fatalf("%s never began:\n%s", bin, calls)
	}
	_, life, _ = strings.Cut(life, "\n")
	ours, read := 0, map[string]bool{}
	call := regexp.MustCompile(`^\d+ +(\w+)\(.*?"([^"]*)"(.*)`)
	for line := range strings.Lines(life) {
		m := call.FindStringSubmatch(line)
		if m == nil {
			continue // the second half of a call
		}
		name, path := m[1], m[2]
		if strings.HasPrefix(path, d.dir+"/") || path == d.dir {
			ours++
			continue
		}
		known := slices.ContainsFunc(slices.Collect(maps.Keys(readsOnly)), func(p string) bool {
			return path == p || strings.HasSuffix(p, "/") && strings.HasPrefix(path, p)
		})
		if !known || name != "openat" || !strings.Contains(m[3], "O_RDONLY") {
			t.Errorf("outside of the runtime directory: %s", line)
		}
		read[path] = true
	}
	if ours == 0 {
		t.Error("nothing in the runtime directory: nothing is tested")
	}
	t.Logf("%d calls for files in the runtime directory; read elsewhere: %s", ours, slices.Sorted(maps.Keys(read)))
}

// tracerOf returns the process that traces pid.
func tracerOf(t *testing.T, pid int) (tracer int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nTracerPid:")
	if fmt.Sscan(rest, &tracer); tracer == 0 {
		t.Fatalf("nobody traces %d:\n%s", pid, text)
	}
	return tracer
}

// alive reports whether a process runs. A zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(rest, "Z")
}
