//go:build vm

package vm_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/vm"
	"github.com/wslmirror/wslmirror/internal/vm/job"
)

// rebootScripts are what runs in a distribution that has booted by itself.
var rebootScripts = map[string]string{
	"install": `set -e
dpkg --install /run/vm/wslmirror.deb
systemctl enable --now wslmirror || { journalctl -b -u wslmirror; exit 1; }
mkdir -p /var/log/journal # so that the second boot sees the journal of the first
journalctl --flush
`,
	// Windows plugs loopback0 in when wslmirror waits for it.
	"late": `await() {
	n=0
	until wslmirror status --json >/tmp/status; grep -q "\"state\": *\"$1\"" /tmp/status; do
		n=$((n+1))
		[ $n -lt 300 ] || { echo "never $1"; cat /tmp/status; journalctl -b -u wslmirror; exit 1; }
		sleep 0.2
	done
}
set -e
await waiting
echo it waits
ip link add loopback0 type veth peer name windows
ip link set windows up
ip link set loopback0 up
await active
systemctl is-active wslmirror wslmirror-hold
wslmirror status
nft list table ip wslmirror
systemctl is-enabled wslmirror
systemctl is-system-running --wait || systemctl status --failed
systemctl --failed
test -z "$(systemctl --failed --no-legend)"
test -z "$(journalctl -b -p warning -q -u wslmirror -u wslmirror-hold)"
`,
	"before": `set -e
journalctl --list-boots
journalctl -b -1 -u wslmirror -o cat
test -z "$(journalctl -b -1 -p warning -q -u wslmirror -u wslmirror-hold)"
`,
}

// A distribution on a machine of its own: wslmirror, once enabled, waits for loopback0 at
// each boot, is active when it has come, and stops in an orderly way in between.
func TestReboot(t *testing.T) {
	labtest.NeedTree(t)
	root, disk := guestRoot(t, rebootScripts)
	run(t, exec.Command("../../packaging/build.sh", "--package", filepath.Dir(disk)))
	debs, err := filepath.Glob(filepath.Join(filepath.Dir(disk), "*.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("packages %v, %v", debs, err)
	}
	if err := root.Copy("/wslmirror.deb", debs[0]); err != nil {
		t.Fatal(err)
	}
	verdict, took := "passes", time.Duration(0)
	late := script("late", "it waits", "active active", "active: ", "chain WSLPREROUTING", `iif "loopback0"`, "enabled", "running")
	boots := [][]work{{script("install"), late}, {late, script("before", "removed everything that it added")}}
	for i, works := range boots {
		ok := t.Run([]string{"first", "second"}[i], func(t *testing.T) {
			for _, r := range bootDisk(t, root, disk, works) {
				took += r.Took
			}
		})
		if !ok {
			verdict = "**fails**"
			break
		}
	}
	if *update {
		kernel, err := linux612.Get()
		if err != nil {
			t.Fatal(err)
		}
		writeTable(t, fmt.Sprintf("| %s |  | a reboot | %s | %.0f |\n", kernel.Name, verdict, took.Seconds()))
	}
}

// script is a script of the guest in a system of a disk.
func script(name string, wants ...string) work {
	return work{Job: job.Job{Name: name, Args: []string{"sh", job.Root + "/scripts/" + name}, Env: []string{slow}}, wants: wants}
}

// bootDisk boots the system on a disk, and judges what comes of the jobs.
func bootDisk(t *testing.T, root *vm.Tree, disk string, works []work) []vm.Result {
	t.Helper()
	kernel, err := linux612.Get()
	if err != nil {
		t.Fatal(err)
	}
	m := vm.Machine{Kernel: kernel, Root: root, Disk: disk}
	if os.Getenv("WSLMIRROR_CONSOLE") != "" {
		m.Console = os.Stderr
	}
	for _, w := range works {
		m.Jobs = append(m.Jobs, w.Job)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lab.Scaled(30*time.Minute))
	defer cancel()
	results, err := m.Boot(ctx)
	if err != nil {
		t.Error(err)
	}
	for i, r := range results {
		if w := works[i]; r.Exit != w.exit || !containsAll(r.Output, w.wants) {
			t.Errorf("%s: exit %d, want %d and %q:\n%s", r.Name, r.Exit, w.exit, w.wants, r.Output)
		} else {
			t.Logf("%s: %v\n%s", r.Name, r.Took, r.Output)
		}
	}
	return results
}

// guestRoot is what a machine with a disk has beside it, and a disk with the Debian tree
// of the bench.
func guestRoot(t *testing.T, scripts map[string]string) (root *vm.Tree, disk string) {
	t.Helper()
	root, disk = vm.NewTree(), filepath.Join(t.TempDir(), "disk")
	goBuild(t, root, "/init", "./guest")
	for name, text := range scripts {
		root.Write("/scripts/"+name, 0o755, []byte(text))
	}
	if err := root.Program("modprobe"); err != nil {
		t.Fatal(err)
	}
	tree, err := lab.Tree()
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.NewDisk(disk, tree); err != nil {
		t.Fatal(err)
	}
	return root, disk
}

// goBuild gives the guest a program of this repository.
func goBuild(t *testing.T, root *vm.Tree, path, pkg string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "built")
	build := exec.Command("go", "build", "-o", out, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	run(t, build)
	if err := root.Copy(path, out); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", cmd.Args, err, out)
	}
}
