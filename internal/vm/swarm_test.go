//go:build vm

package vm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// Docker in swarm mode, where IPVS serves the ports: whatever works without wslmirror works
// with it, and docs/kernels.md shows what does.
func TestSwarm(t *testing.T) {
	labtest.NeedTree(t)
	tree, err := lab.Tree()
	if err != nil {
		t.Fatal(err)
	}
	root, disk := guestRoot(t, map[string]string{
		// The system is the tree from which the bench runs engines. It has no modprobe, which
		// dockerd would run.
		"cache": `set -e
chroot /run/vm modprobe -a ip_vs br_netfilter
# The networks of Docker inherit this from the machine's own, which WSL's is in a real WSL.
sysctl -q net.ipv4.ip_forward=1
mkdir -p /cache/` + filepath.Base(tree) + `
mount --bind / /cache/` + filepath.Base(tree) + `
`,
		"swarm": `export WSLMIRROR_LAB_CACHE=/cache PATH=/run/vm/bin:$PATH
mirrorlab matrix --engine "$1" --mode mirrored --markdown 2>/tmp/err || { cat /tmp/err; exit 1; }
`,
	})
	// The program in the containers is built already.
	root.Write("/bin/go", 0o755, []byte("#!/bin/sh\nexec cp /run/vm/echo \"$4\"\n"))
	goBuild(t, root, "/echo", "../lab/echo")
	goBuild(t, root, "/bin/wslmirror", "../../cmd/wslmirror")
	goBuild(t, root, "/bin/mirrorlab", "../../cmd/mirrorlab")
	works := []work{script("cache")}
	for _, e := range lab.Swarms {
		w := script("swarm", "| mirrored | "+e.Name+" | 0.0.0.0 |")
		w.Name, w.Args, w.Env = e.Name, append(w.Args, e.Name), []string{"WSLMIRROR_SLOW=8"}
		works = append(works, w)
	}
	var head, rows string
	for _, r := range bootDisk(t, root, disk, works) {
		// The whole matrix is behind the short one.
		_, table, _ := strings.Cut(r.Output, "\n\n")
		if lines := strings.SplitAfter(table+"\n", "\n"); len(lines) > 2 && strings.HasPrefix(lines[2], "| ") {
			head, rows = lines[0]+lines[1], rows+lines[2]
		}
	}
	if *update && rows != "" {
		writeSwarm(t, head+rows)
	}
}

// writeSwarm puts the matrix into its place in docs/kernels.md.
func writeSwarm(t *testing.T, table string) {
	t.Helper()
	const path, begin, end = "../../docs/kernels.md", "<!-- make vm: swarm -->\n", "<!-- end -->"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no %q and %q", path, begin, end)
	}
	if err := os.WriteFile(path, []byte(before+begin+table+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
