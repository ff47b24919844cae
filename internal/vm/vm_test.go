package vm_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/vm"
	"github.com/wslmirror/wslmirror/internal/vm/job"
)

var update = flag.Bool("update", false, "write the table of docs/kernels.md")

// every says that all kernels are to be booted with all jobs: make vm.
var every = os.Getenv("WSLMIRROR_KERNELS") == "all"

// How much longer than on a machine that is not emulated a job may take.
const (
	slow   = "WSLMIRROR_SLOW=5" // which is how long what has no answer takes, too
	slower = "WSLMIRROR_SLOW=30"
)

// A source is where a kernel comes from.
type source interface{ Get() (vm.Kernel, error) }

// A boot is a machine, and what is to be seen there.
type boot struct {
	name    string
	from    source
	without []string
	jobs    []work
}

// A work is a job and what must come of it.
type work struct {
	job.Job
	exit  int
	wants []string // in what it prints
}

var (
	linux61  = vm.Debian{Suite: "bookworm", Package: "linux-image-cloud-amd64"}
	linux612 = vm.Debian{Suite: "trixie", Package: "linux-image-cloud-amd64"}
	newest   = vm.Debian{Suite: "trixie-backports", Package: "linux-image-cloud-amd64"}
	tooOld   = vm.Debian{Suite: "bullseye", Package: "linux-image-cloud-amd64"}
	// Of the kernels that Debian has as source, 6.12 is nearest to WSL's 6.6 and 6.18.
	// NETFILTER_XTABLES_LEGACY is of 6.17: what it chooses, 6.12 always has.
	wsl618 = vm.Source{
		Debian: vm.Debian{Suite: "trixie", Package: "linux-source-6.12"}, Config: "wsl-6.18", Unknown: []string{"NETFILTER_XTABLES_LEGACY"},
	}
)

func demo(mode lab.Mode) work {
	return work{Job: job.Job{Name: "demo " + mode.String(), Args: []string{"mirrorlab", "demo", "--mode", mode.String()}, Env: []string{slow}}}
}

// unknownToWSL are the modules of Debian's kernels, of those that the bench or wslmirror
// might use, that not every kernel of WSL has: see docs/kernels.md.
var unknownToWSL = []string{
	"nf_dup_netdev", "nft_dup_netdev", "nft_fwd_netdev", "nft_fib", "nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6", "nft_fib_netdev",
	"nft_socket", "nf_flow_table", "nft_flow_offload", "xfrm_user", "ifb", "dummy",
}

// inWSL is a script that runs in the bench's WSL, where wslmirror has started.
func inWSL(name, script string, wants ...string) work {
	return work{
		Job:   job.Job{Name: name, Args: []string{"mirrorlab", "shell"}, Env: []string{"SHELL=/scripts/" + script, slow}},
		wants: wants,
	}
}

// scripts are what the guest has in /scripts.
var scripts = map[string]string{
	// A daemon that serves, and what the commands say of it.
	"serve": `wslmirror run --to-windows 9100 2>/tmp/log &
n=0
until wslmirror status >/tmp/status; do
	n=$((n+1))
	[ $n -lt 100 ] || { cat /tmp/status /tmp/log; exit 1; }
	sleep 0.2
done
sleep 1 # what it lacks may be told by the second look
wslmirror status
wslmirror doctor || exit
windows bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080
printf "GET / HTTP/1.0\r\n\r\n" >&3
while read -r -t 20 line <&3; do
	echo "$line"
	case $line in container*) exit;; esac
done
exit 1'
`,
	"trace": `wslmirror run 2>/tmp/log &
until wslmirror status >/dev/null; do sleep 0.2; done
# Who listens in the container is not seen: it has no process.
wslmirror trace 8080
[ $? = 3 ] && wslmirror trace 9000
`,
	// A kernel on which no daemon runs.
	"refuse": `wslmirror run && exit 1
wslmirror status && exit 1
wslmirror doctor && exit 1
exit 0
`,
}

// smoke is what each make test runs.
var smoke = []work{demo(lab.Mirrored), inWSL("doctor", "serve", all...)}

// all is what is seen where a kernel lacks nothing.
var all = []string{"supports everything that wslmirror uses", "No fault found", "container"}

// lacking is what is seen where a kernel lacks a module.
func lacking(module string, left ...string) boot {
	return boot{"commands", linux612, []string{module}, []work{inWSL("doctor", "serve", append(left, "it does not support", "modprobe", module, "No fault found", "container")...)}}
}

// needs is a demo that cannot be, and says why.
func needs(name, module string) work {
	w := demo(lab.Mirrored)
	w.Name, w.exit, w.wants = name, 1, []string{"this kernel lacks what the bench needs: " + module}
	return w
}

func boots() []boot {
	if !every {
		return []boot{{"commands", linux61, nil, smoke}, {"commands", linux612, nil, smoke}}
	}
	var commands, tests []work
	for _, m := range lab.Modes {
		commands = append(commands, demo(m))
	}
	commands = append(commands, inWSL("doctor", "serve", all...), inWSL("trace", "trace", "WSLPREROUTING dnat to 127.0.0.1:8080", "From Linux to port 9000/tcp"))
	chaos := []work{{Job: job.Job{Name: "chaos 100", Args: []string{"mirrorlab", "chaos", "--steps", "100"}, Env: []string{slower}}}}
	for _, pkg := range packages {
		tests = append(tests, work{Job: job.Job{
			Name: "tests of " + pkg, Dir: "/src/" + pkg, Args: []string{"./test", "-test.timeout=1h"}, Env: []string{"CI=1", slower},
		}})
	}
	var list []boot
	for _, from := range []source{linux61, linux612, newest, wsl618} {
		list = append(list, boot{"commands", from, nil, commands}, boot{"tests", from, nil, tests}, boot{"chaos", from, nil, chaos})
	}
	return append(list, []boot{
		{"commands", tooOld, nil, []work{inWSL("refusal", "refuse", "no table ownership", "kernel")}},
		lacking("nft_ct", "localhost from Linux", "closed ports", "containers to Windows"),
		{"commands", linux612, []string{"nft_masq"}, []work{needs("demo", "nft_masq")}},
		lacking("nft_reject", "closed ports"),
		lacking("nf_conntrack_netlink", "reset of earlier connections"),
		{"commands", linux612, unknownToWSL, commands},
	}...)
}

// packages are those whose tests run on each kernel.
var packages = []string{"nft", "netwatch", "internal/mirror"}

// Other kernels than this machine's: two of them with what matters most, or with
// WSLMIRROR_KERNELS=all each with everything.
func TestKernels(t *testing.T) {
	labtest.NeedRoot(t)
	root, all := tree(t), boots()
	rows := make([]string, len(all))
	t.Run("boot", func(t *testing.T) {
		for i, b := range all {
			t.Run(fmt.Sprintf("%s of %v without %v", b.name, b.from, b.without), func(t *testing.T) {
				t.Parallel()
				rows[i] = b.run(t, root)
			})
		}
	})
	if every && *update {
		writeTable(t, strings.Join(rows, ""))
	}
}

// run boots the machine, judges what came of its jobs, and returns the rows of the table.
func (b boot) run(t *testing.T, root *vm.Tree) string {
	kernel, err := b.from.Get()
	if err != nil {
		t.Fatal(err)
	}
	m := vm.Machine{Kernel: kernel, Without: b.without, Root: root}
	for _, w := range b.jobs {
		m.Jobs = append(m.Jobs, w.Job)
	}
	if log := os.Getenv("WSLMIRROR_CONSOLE"); log != "" { // a folder
		console, err := os.Create(filepath.Join(log, strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())))
		if err != nil {
			t.Fatal(err)
		}
		defer console.Close()
		m.Console = console
	}
	limit := lab.Scaled(5 * time.Minute)
	if every {
		limit = lab.Scaled(time.Hour)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	results, err := m.Boot(ctx)
	if err != nil {
		t.Error(err)
	}
	without := strings.Join(b.without, ", ")
	if slices.Equal(b.without, unknownToWSL) {
		without = "what a kernel of WSL lacks"
	}
	var rows strings.Builder
	for i, r := range results {
		verdict := "passes"
		if w := b.jobs[i]; r.Exit != w.exit || !containsAll(r.Output, w.wants) {
			verdict = "**fails**"
			t.Errorf("%s: exit %d, want %d and %q:\n%s", r.Name, r.Exit, w.exit, w.wants, r.Output)
		} else if testing.Verbose() {
			t.Logf("%s: %v\n%s", r.Name, r.Took, r.Output)
		}
		fmt.Fprintf(&rows, "| %s | %s | %s | %s | %.0f |\n", kernel.Name, without, r.Name, verdict, r.Took.Seconds())
	}
	return rows.String()
}

// containsAll reports whether s has all parts, however its lines are folded.
func containsAll(s string, parts []string) bool {
	s = strings.Join(strings.Fields(s), " ")
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// tree is the file system of all machines.
func tree(t *testing.T) *vm.Tree {
	t.Helper()
	repo, err := labtest.Root()
	if err != nil {
		t.Fatal(err)
	}
	root := vm.NewTree()
	dir := t.TempDir()
	program := func(path string, build ...string) {
		t.Helper()
		out := filepath.Join(dir, "built")
		cmd := exec.Command("go", append(build[:len(build)-1:len(build)-1], "-o", out, build[len(build)-1])...)
		cmd.Dir, cmd.Env = repo, append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v: %s", build, err, text)
		}
		content, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		root.Write(path, 0o755, content)
	}
	copy := func(path, from string) {
		t.Helper()
		if err := root.Copy(path, from); err != nil {
			t.Fatal(err)
		}
	}
	program("/init", "build", "./internal/vm/guest")
	program("/usr/bin/wslmirror", "build", "./cmd/wslmirror")
	program("/usr/bin/mirrorlab", "build", "./cmd/mirrorlab")
	if every {
		copy("/src/go.mod", filepath.Join(repo, "go.mod"))
		for _, pkg := range packages {
			program("/src/"+pkg+"/test", "test", "-c", "./"+pkg)
			if data := filepath.Join(repo, pkg, "testdata"); exists(data) {
				copy("/src/"+pkg+"/testdata", data)
			}
		}
	}
	// The programs that the bench runs.
	for _, name := range []string{"modprobe", "sh", "bash", "mount", "sysctl", "nft", "ip", "ss", "nsenter", "setpriv", "unshare", "systemd-analyze", "iptables-nft"} {
		if err := root.Program(name); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	copy("/bin/busybox", busybox)
	// Where scripts and the kernel look for them. Busybox's own shell would take its own
	// programs for those of this machine.
	for path, name := range map[string]string{"/bin/sh": "sh", "/sbin/modprobe": "modprobe"} {
		from, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		copy(path, from)
	}
	for _, from := range []string{"/etc/protocols", "/etc/services"} {
		if exists(from) {
			copy(from, from)
		}
	}
	root.Write("/etc/passwd", 0o644, []byte("root:x:0:0::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"))
	root.Write("/etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	// By this a program knows that it runs in WSL.
	root.Write("/usr/bin/wslinfo", 0o755, []byte("#!/bin/busybox sh\ncase $1 in --networking-mode) printf mirrored;; *) echo 2.9.5.0;; esac\n"))
	for name, script := range scripts {
		root.Write("/scripts/"+name, 0o755, []byte("#!/bin/sh\n"+script))
	}
	return root
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// tableHead is what is above the rows of the table.
const tableHead = "| kernel | without | ran | result | seconds |\n|---|---|---|---|--:|\n"

// writeTable puts the rows into the table between its marks. What was not booted this
// time stays.
func writeTable(t *testing.T, rows string) {
	t.Helper()
	repo, err := labtest.Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(repo, "docs/kernels.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- make vm -->\n", "<!-- end -->"
	before, rest, ok := strings.Cut(string(b), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no %q and %q", path, begin, end)
	}
	// What ran where, without the result.
	key := func(row string) string { return strings.Join(strings.SplitN(row, "|", 5)[:4], "|") }
	all := map[string]string{}
	for row := range strings.Lines(strings.TrimPrefix(old, tableHead) + rows) {
		all[key(row)] = row
	}
	var table strings.Builder
	table.WriteString(tableHead)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		table.WriteString(all[k])
	}
	if err := os.WriteFile(path, []byte(before+begin+table.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
