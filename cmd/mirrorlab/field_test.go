package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/tracker"
)

// A fieldWorld is a bench that looks like a real WSL to "mirrorlab field": stand-ins for
// the programs of Windows run in its Windows, and docker is one for a Docker 20.10.
type fieldWorld struct {
	*lab.Bench
	t      *testing.T
	dir    string // of the stand-ins
	engine *lab.StandIn

	mu         sync.Mutex
	dead       string            // the suffix of a container that is not published
	containers map[string]string // what inspect prints, by name
	images     int
	service    []string // what systemctl was asked
	runs       bool     // the service
}

func newFieldWorld(t *testing.T, mode lab.Mode) *fieldWorld {
	labtest.NeedRoot(t)
	w := &fieldWorld{
		t: t, dir: t.TempDir(), containers: map[string]string{}, runs: true,
		Bench: labtest.New(t, lab.Options{Mode: mode, Tracker: &tracker.Options{}}),
	}
	var err error
	if w.engine, err = w.StartStandIn(); err != nil {
		t.Fatal(err)
	}
	// As Docker does. Another one would follow the containers, and those that are there
	// would send to the old one for a while.
	if _, err := w.WSL.Run("ip", "link", "set", "docker0", "address", "02:42:ac:11:00:01"); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(w.dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go w.serve(l)

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root, err := labtest.Root()
	if err != nil {
		t.Fatal(err)
	}
	// What they need is found here: in their PATH are the stand-ins only, since no engine
	// of this machine may be found.
	found := map[string]string{}
	for _, name := range []string{"nsenter", "env", "curl"} {
		if found[name], err = exec.LookPath(name); err != nil {
			t.Fatal(err)
		}
	}
	inWindows := fmt.Sprintf("exec %s --net=/proc/%d/fd/%d -- ", found["nsenter"], os.Getpid(), w.Windows.NetNS())
	standIn := func(name string) string {
		return fmt.Sprintf("%s STAND_IN=%s STAND_IN_SOCKET=%s/socket STAND_IN_SCRIPTS=%s/internal/field STAND_IN_CURL=%s %s \"$@\"",
			found["env"], name, w.dir, root, found["curl"], self)
	}
	word := map[lab.Mode]string{lab.Mirrored: "mirrored", lab.MirroredHAL: "mirrored", lab.Consomme: "consomme"}[mode]
	for name, script := range map[string]string{
		"curl.exe":       inWindows + standIn("curl"),
		"powershell.exe": inWindows + standIn("powershell"),
		"cmd.exe":        "printf '\\r\\nMicrosoft Windows [Version 10.0.26100.4061]\\r\\n'",
		"taskkill.exe":   "exit 1",
		"netsh.exe":      "exit 1",
		"netstat.exe":    "exit 1",
		"wslinfo":        "[ $1 = --networking-mode ] && echo " + word + " || echo 2.9.5.0",
		"docker":         "exec " + standIn("docker"),
		"systemctl":      "exec " + standIn("systemctl"),
		"podman":         "echo 'Cannot connect to Podman' >&2; exit 125",
	} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// command is "mirrorlab field", to be started in WSL.
func (w *fieldWorld) command(args ...string) *exec.Cmd {
	cmd := program(w.t, append([]string{"field"}, args...)...)
	cmd.Env = append(cmd.Env, "PATH="+w.dir, "SUDO_UID=", "USER=fieldtester")
	return cmd
}

// A standInCall is what a stand-in tells the test, and a standInAnswer what it is told.
type (
	standInCall   struct{ Args []string }
	standInAnswer struct {
		Out  string
		Code int
	}
)

func (w *fieldWorld) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			var call standInCall
			if json.NewDecoder(c).Decode(&call) != nil {
				return
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			out, err := w.answer(call.Args)
			a := standInAnswer{Out: out}
			if err != nil {
				a = standInAnswer{err.Error() + "\n", 1}
			}
			_ = json.NewEncoder(c).Encode(a)
		}()
	}
}

func (w *fieldWorld) answer(args []string) (string, error) {
	switch program, args := args[0], args[1:]; program {
	case "systemctl":
		w.service = append(w.service, args[0])
		switch args[0] {
		case "stop":
			w.runs = false
		case "start":
			w.runs = true
		case "is-active":
			if !w.runs {
				return "", errors.New("inactive")
			}
		}
		return "", nil
	case "docker":
		return w.docker(args)
	case "has-port":
		var p tracker.Port
		fmt.Sscan(args[1], &p.Number)
		p.Proto = map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[args[0]]
		return fmt.Sprint(slices.Contains(w.Tracker.Ports(), p)), nil
	}
	return "", errors.New("unexpected")
}

// docker does what field asks of Docker.
func (w *fieldWorld) docker(args []string) (string, error) {
	switch args[0] {
	case "version":
		return "20.10.24+dfsg1", nil
	case "info":
		return "Debian GNU/Linux 12", nil
	case "import":
		w.images++
		return "sha256:0", nil
	case "image":
		w.images--
		return "", nil
	case "rm":
		if w.containers[args[2]] == "" {
			return "", errors.New("Error: No such container: " + args[2])
		}
		delete(w.containers, args[2])
		return "", nil
	case "inspect":
		return w.containers[args[3]], nil
	case "run":
		name := args[slices.Index(args, "--name")+1]
		var publish []string
		for i, a := range args {
			if a == "--publish" {
				publish = append(publish, args[i+1])
			}
		}
		return name, w.runContainer(name, publish)
	}
	return "", fmt.Errorf("unexpected: docker %q", args)
}

func (w *fieldWorld) runContainer(name string, publish []string) error {
	c, err := w.AddContainer(name)
	if err != nil {
		return err
	}
	n := byte(3 + len(w.containers)) // behind the stand-in's own
	addr, gateway := netip.AddrFrom4([4]byte{172, 17, 0, n}), netip.MustParseAddr("172.17.0.1")
	if err := w.Plug(c, fmt.Sprintf("veth%d", n), "docker0", netip.PrefixFrom(addr, 16), gateway); err != nil {
		return err
	}
	if err := w.AwaitContainer(addr); err != nil {
		return err
	}
	p, err := c.Start(exec.Command("sleep", "1000"))
	if err != nil {
		return err
	}
	w.containers[name] = fmt.Sprintf("%d %s %s", p.Process.Pid, addr, gateway)
	if w.dead != "" && strings.HasSuffix(name, w.dead) {
		return nil
	}
	w.engine.Addr = addr
	for _, p := range publish {
		p, isUDP := strings.CutSuffix(p, "/udp")
		proto := "tcp"
		if isUDP {
			proto = "udp"
		}
		if err := w.engine.Publish(proto, strings.TrimSuffix(p, ":80")); err != nil {
			return err
		}
	}
	return nil
}

// isPutBack fails the test if anything is left of a run.
func (w *fieldWorld) isPutBack(rules string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.containers) > 0 || w.images != 0 {
		w.t.Errorf("left with Docker: %v, %d images", w.containers, w.images)
	}
	if !w.runs || !slices.Contains(w.service, "stop") {
		w.t.Errorf("the service is not as it was: %q", w.service)
	}
	if now := w.setup(); now != rules {
		w.t.Errorf("ip rules, links and tables before:\n%s\nafter:\n%s", rules, now)
	}
}

// setup is what wslmirror changes, but for what containers add.
func (w *fieldWorld) setup() string {
	w.t.Helper()
	var all string
	for _, args := range [][]string{{"ip", "rule"}, {"nft", "list", "tables"}, {"sysctl", "net.ipv4.conf.docker0.route_localnet"}} {
		out, err := w.WSL.Run(args[0], args[1:]...)
		if err != nil {
			w.t.Fatal(err)
		}
		all += out
	}
	return all
}

// The reports of each mode, and one with three faults.
func TestField(t *testing.T) {
	for name, test := range map[string]struct {
		mode  lab.Mode
		spoil func(t *testing.T, w *fieldWorld)
		want  []string // in the Markdown
	}{
		"mirrored":     {lab.Mirrored, nil, []string{"**Differs from the bench: 0.**"}},
		"mirrored-hal": {lab.MirroredHAL, nil, []string{"**Differs from the bench: 0.**"}},
		"consomme":     {lab.Consomme, nil, []string{"**Differs from the bench: 0.**"}},
		"faults": {lab.Mirrored, func(t *testing.T, w *fieldWorld) {
			if _, err := w.WSL.Run("ip", "rule", "del", "pref", "0", "iif", "eth0", "ipproto", "tcp", "lookup", "local"); err != nil {
				t.Fatal(err)
			}
			// Outside of the block altogether, so that no source port is in it by chance.
			if err := w.WSL.Sysctl("ipv4/ip_local_port_range", "30000\t39999"); err != nil {
				t.Fatal(err)
			}
			w.dead = "-everywhere"
		}, []string{
			"- missing: ip rule 0: from all iif eth0 ipproto tcp lookup local\n",
			"- sysctl net.ipv4.ip_local_port_range is 30000-39999, and WSL masquerades to 60700-60999; on the bench: sysctl net.ipv4.ip_local_port_range is the block to which WSL masquerades\n",
			"- Windows → docker, published on 0.0.0.0, TCP, with wslmirror: ",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newFieldWorld(t, test.mode)
			if test.spoil != nil {
				test.spoil(t, w)
			}
			before := w.setup()
			report := filepath.Join(t.TempDir(), "report")
			cmd := w.command("--yes", "--report", report)
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			p, err := w.WSL.Start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			want := exitOK
			if test.spoil != nil {
				want = exitFailure
			}
			if code := exitCode(t, p.Wait()); code != want {
				t.Errorf("exit %d, want %d:\n%s%s", code, want, out.String(), errs.String())
			}
			w.isPutBack(before)
			for _, ending := range []string{".md", ".json"} {
				text := plain(readFile(t, report+ending), test.spoil != nil)
				if ending == ".md" {
					labtest.WantAll(t, text, test.want...)
				}
				compareGolden(t, filepath.Join("testdata", "field", name+ending), text)
			}
		})
	}
}

// plain replaces what differs from run to run. How a client fails may differ on a busy
// machine where any failure is as on the bench, and everywhere if spoiled.
func plain(report string, spoiled bool) string {
	// The longest word first.
	const failure = `(no answer|reset|closed|refused after 1 s|refused)`
	after := ` \| (fails|refused or refused after 1 s) \|`
	if spoiled {
		report = regexp.MustCompile(failure+"(, with it: |; on the bench)").ReplaceAllString(report, "fails$2")
		after = ` \| ([^|]*) \|`
	}
	for _, r := range [][2]string{
		{failure + `(, \d+\.\d ms)` + after, "fails$2 | $3 |"},
		{`"outcome": "` + failure + `"`, `"outcome": "fails"`},
		{`\d+\.\d+ ms \| \d+ \|`, "N ms | N |"},
		{`\d+\.\d ms`, "N ms"},
		{`"(ms|median_ms|per_second|requests)": [-+.\de]+`, `"$1": 0`},
		{`"at": "([\d.]+):\d+"`, `"at": "$1:1"`},
		{`(\| (kernel|date|mirrorlab) \|).*`, "$1 … |"},
		{`"(kernel|date|version)": ".*"`, `"$1": "…"`},
	} {
		report = regexp.MustCompile(r[0]).ReplaceAllString(report, r[1])
	}
	return report
}

func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
		return
	}
	want := strings.Split(readFile(t, file), "\n")
	for i, line := range strings.Split(got, "\n") {
		if i >= len(want) || line != want[i] {
			t.Errorf("%s: line %d is not as recorded: %s\nall:\n%s", file, i+1, line, got)
			return
		}
	}
	if n := strings.Count(got, "\n") + 1; n < len(want) {
		t.Errorf("%s: there are %d lines, and %d were recorded", file, n, len(want))
	}
}

// ^C, while containers and wslmirror run.
func TestFieldInterrupted(t *testing.T) {
	for _, after := range []string{"✓ start containers", "✓ start wslmirror"} {
		t.Run(after, func(t *testing.T) {
			t.Parallel()
			w := newFieldWorld(t, lab.Mirrored)
			before := w.setup()
			report := filepath.Join(t.TempDir(), "report")
			cmd := w.command("--yes", "--report", report)
			stderr, to, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stderr.Close()
			cmd.Stderr = to
			p, err := w.WSL.Start(cmd)
			to.Close()
			if err != nil {
				t.Fatal(err)
			}
			var said string
			lines := bufio.NewReader(stderr)
			for !strings.HasPrefix(said, after) {
				if said, err = lines.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Process.Signal(unix.SIGINT); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(lines)
			if err != nil {
				t.Fatal(err)
			}
			if code := exitCode(t, p.Wait()); code != exitFailure || !strings.HasSuffix(string(rest), "\nmirrorlab: interrupted\n") {
				t.Errorf("exit %d:\n%s", code, rest)
			}
			w.isPutBack(before)
			if left, _ := filepath.Glob(report + "*"); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// Without a Windows to ask, and without engines, a run says so. Whoever says no is left
// alone.
func TestFieldWithoutWindows(t *testing.T) {
	w := newFieldWorld(t, lab.Mirrored)
	for _, program := range []string{"curl.exe", "powershell.exe", "docker", "podman", "cmd.exe"} {
		if err := os.Remove(filepath.Join(w.dir, program)); err != nil {
			t.Fatal(err)
		}
	}
	report := filepath.Join(t.TempDir(), "report")
	start := func(args ...string) (code int, stderr string) {
		cmd := w.command(args...)
		var errs bytes.Buffer
		cmd.Stdin, cmd.Stderr = strings.NewReader("no\n"), &errs
		p, err := w.WSL.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		return exitCode(t, p.Wait()), errs.String()
	}
	if code, stderr := start("--report", report); code != exitFailure || !strings.HasSuffix(stderr, "Go on? [y/N] mirrorlab: nothing was done\n") {
		t.Errorf("exit %d:\n%s", code, stderr)
	}
	if slices.Contains(w.service, "stop") {
		t.Error("the service was stopped all the same")
	}
	if code, stderr := start("--yes", "--report", report); code != exitOK {
		t.Errorf("exit %d:\n%s", code, stderr)
	}
	labtest.WantAll(t, readFile(t, report+".md"),
		"**Differs from the bench: 0.**", "- servers of Windows: no powershell.exe,", "- containers: there is neither docker nor podman",
		"| Windows → a server of Linux, TCP | not checked | answers | not checked | answers |  |")
}

// Real engines do what is asked of their command lines, and the containers of both agree
// with the bench. mirrorlab runs where the engine does, since it wants the numbers of its
// processes.
func TestFieldWithEngines(t *testing.T) {
	labtest.NeedTree(t)
	for name, env := range map[string]string{"docker-iptables": "X=", "podman-netavark-nftables": "NETAVARK_FW=nftables"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{})
			engine := labtest.StartEngine(t, b, name)
			if err := build(); err != nil {
				t.Fatal(err)
			}
			pid := engineProcess(t, b.WSL)
			root := fmt.Sprintf("/proc/%d/root", pid)
			for file, content := range map[string]string{
				"/mirrorlab": readFile(t, filepath.Join(programs, "mirrorlab")), "/wslmirror": readFile(t, filepath.Join(programs, "wslmirror")),
				"/usr/bin/wslinfo": "#!/bin/sh\n[ $1 = --networking-mode ] && echo mirrored || echo 2.9.5.0\n",
			} {
				if err := os.WriteFile(root+file, []byte(content), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			out, err := b.WSL.Run("nsenter", "--target", fmt.Sprint(pid), "--mount", "--pid", "--root", "--wd", "--",
				"env", env, "TMPDIR=/tmp", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "/mirrorlab", "field", "--yes", "--report", "/report")
			if err != nil {
				t.Errorf("%v", err)
			}
			report := readFile(t, root+"/report.md")
			kind, _, _ := strings.Cut(name, "-")
			labtest.WantAll(t, report, "**Differs from the bench: 0.**",
				"| Linux → "+kind+", published on 0.0.0.0, UDP | ", "| Linux → "+kind+", published on 127.0.0.1, TCP | ",
				"| a container of "+kind+" → a server of Linux, TCP | answers")
			if t.Failed() {
				t.Logf("%s\n%s", out, report)
			}
			for _, args := range [][]string{{"ps", "--all", "--format", "{{.Names}}"}, {"images"}} {
				if left, err := engine.CLI(args...); err != nil || strings.Contains(left, "wslmirror-field") {
					t.Errorf("left: %s, %v", left, err)
				}
			}
		})
	}
}

// engineProcess is the first process of the engine in a host: it has the host's network, and
// mounts of its own.
func engineProcess(t *testing.T, h *lab.Host) (pid int) {
	t.Helper()
	network, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", h.NetNS()))
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range found {
		of, _ := os.Readlink(dir + "/ns/net")
		its, _ := os.Readlink(dir + "/ns/mnt")
		var n int
		if fmt.Sscanf(filepath.Base(dir), "%d", &n); of == network && its != mounts && (pid == 0 || n < pid) {
			pid = n
		}
	}
	if pid == 0 {
		t.Fatal("no engine runs")
	}
	return pid
}
