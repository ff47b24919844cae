package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// A documented command is one that README.md or a page of docs shows, and how it is tested.
type documented struct {
	typed string // as the page has it, or a setting
	how   any    // inWSL, inFedora, onBench, by, name or inWindows
}

// inWSL is a command that runs as it is, in a booted distribution with the package. The
// commands run in the order of the table.
type inWSL struct {
	given  func(service) // what is done before
	answer string        // what the user types
	exit   int
	prints string        // among other things
	shown  string        // the beginning of the output in the page, which has the shape of what is printed
	until  string        // a daemon: it runs in the foreground until this succeeds
	then   func(service) // what is done and checked afterwards
}

// inFedora is a command that runs as it is, with a real dnf and stand-ins for the rest.
type inFedora struct{ prints string }

// onBench is a command that runs in a checkout, with smaller numbers.
type onBench struct{ instead string }

// by is a command that another test runs: a function or variable in a folder. Without one
// the folder is a file. What it contains shows that it runs the command.
type by struct{ folder, function, contains string }

// A name is the beginning of another command in the table.
type name struct{}

// inWindows is Windows' own.
type inWindows struct{}

// curlInWindows runs on the bench's Windows before the other commands and after them.
const curlInWindows = "curl.exe -m 3 http://localhost:8080"

// shortBench is "make speed" without most of what it measures.
const shortBench = `cp docs/performance.md "$DIR" &&
	mirrorlab bench --engine docker-20.10 --trial keepalive --only server,alone --rounds 1 --svg "$DIR/bench.svg" --readme "$DIR/performance.md"`

// shortBenchmark is "make bench" without most of what it measures.
const shortBenchmark = `go test ./nft/ruleset -run XXX -bench Beside/sets -benchtime 1x`

// commands lists all commands of README.md and docs.
var commands = []documented{
	// Without wslmirror.
	{"wslinfo --networking-mode", inWSL{prints: "mirrored"}},
	{"curl -m 3 http://localhost:8080", inWSL{prints: "web"}},
	{curlInWindows, inWindows{}},

	// It is installed.
	{"sha256sum --check --ignore-missing SHA256SUMS", inWSL{prints: ".deb: OK"}},
	{"sudo apt install ./wslmirror_*.deb", inWSL{prints: "sudo systemctl enable --now wslmirror"}},
	{"sudo dnf install ./wslmirror-*.rpm", inFedora{prints: "sudo systemctl enable --now wslmirror"}},
	{"sudo wslmirror run", inWSL{until: "wslmirror status"}},
	{"sudo wslmirror hold", inWSL{until: "grep held /run/wslmirror-hold/hold.json"}},
	{"sudo systemctl enable --now wslmirror", inWSL{then: isActive}},

	// It runs.
	{"wslmirror status", inWSL{given: sendRequests, shown: "● active: "}},
	{"wslmirror log --since 1h", inWSL{prints: "rules are installed for packets that arrive on loopback0"}},
	{"wslmirror ports", inWSL{}},
	{"sudo wslmirror ports", inWSL{given: listensOn3000, shown: "Ports in Linux"}},
	{"wslmirror ports explain 8080", inWSL{exit: 1, prints: "docker publishes it"}},
	{"wslmirror ports explain 1650", inWSL{exit: 1, shown: "✗ 1650/tcp is blocked"}},
	{"net stop winnat", inWindows{}},
	{"netsh int ipv4 add excludedportrange protocol=tcp startport=1650 numberofports=1 store=persistent", inWindows{}},
	{"net start winnat", inWindows{}},
	{"wslmirror ports explain", name{}},
	{"wslmirror ports free 3", inWSL{prints: "8082"}},
	{"sudo /usr/libexec/wslmirror/mirrorlab field", inWSL{exit: 1, answer: "n", prints: "This takes about two minutes."}},

	// Something is wrong.
	{"wslmirror doctor", inWSL{prints: "sudo shows more"}},
	{"wslmirror doctor --bundle FILE", inWSL{prints: "Wrote FILE"}},
	{"sudo wslmirror doctor --bundle FILE", inWSL{prints: "Wrote FILE"}},
	{"sudo wslmirror trace 8080", inWSL{exit: 1, given: hasFirewall, shown: "From Windows to port 8080/tcp"}},
	{"wslmirror trace", name{}},
	{"sudo nft insert rule inet fw in iifname loopback0 ip daddr 127.0.0.1 accept", inWSL{then: func(s service) {
		s.run("wslmirror", "trace", "8080")
		s.run("nft", "delete", "table", "inet", "fw")
	}}},
	{"sudo wslmirror doctor", inWSL{exit: 1, shown: "✗ fault ip-rules", given: func(s service) {
		s.run("ip", "rule", "add", "pref", "0", "ipproto", "tcp", "lookup", "main")
	}}},
	{"sudo ip rule add pref 3 from all ipproto tcp lookup main", inWSL{}},
	{"sudo ip rule del pref 0 from all ipproto tcp lookup main", inWSL{then: func(s service) {
		s.run("wslmirror", "doctor")
		s.run("ip", "rule", "del", "pref", "3")
	}}},
	{"ip rule del pref 0 lookup local", by{"internal/e2e", "forge", `"ip", "rule", "del", "pref", "0", "lookup", "local"`}},
	{"ip rule del", name{}},
	{"ip rule flush", by{"internal/e2e", "losses", `removeBy("ip rule flush")`}},
	{"wslmirror cleanup", by{"internal/e2e", "TestDirect", `"cleanup"`}},

	// Settings.
	{`WSLMIRROR_OPTS="--to-windows 11434"`, inWSL{}},
	{"sudo systemctl restart wslmirror", inWSL{then: isActive}},
	{"docker run --add-host host.docker.internal:host-gateway curlimages/curl http://host.docker.internal:11434", inWSL{given: hasCurlImage, prints: "Windows"}},
	{"docker network create", by{"internal/e2e", "TestDirect", `"network", "create"`}},
	{`WSLMIRROR_OPTS="--path direct"`, inWSL{then: func(s service) {
		s.run("systemctl", "restart", "wslmirror")
		if now := s.await(status.Active, 0); now.Path != "direct" {
			s.tb.Errorf("the path is %s", now.Path)
		}
	}}},
	{"WSLMIRROR_HOLD=false", inWSL{then: func(s service) {
		s.run("systemctl", "restart", "wslmirror")
		labtest.Eventually(s.tb, "the holder ends", func() bool {
			_, err := s.Run("systemctl", "is-active", "wslmirror-hold")
			return err != nil
		})
	}}},
	{"sudo systemctl stop wslmirror", inWSL{then: func(s service) {
		if now := s.status(); now.State != status.Stopped {
			s.tb.Errorf("it is %s", now.State)
		}
	}}},
	{"sudo systemctl start wslmirror", inWSL{then: isActive}},

	// What others do.
	{"systemctl restart nftables", inWSL{then: isActive}},
	{"nft flush ruleset", inWSL{then: func(s service) {
		labtest.Eventually(s.tb, "WSL's rules are restored", func() bool {
			out, _ := s.Run("nft", "list", "ruleset")
			return strings.Contains(out, "WSLPOSTROUTING")
		})
	}}},
	{"nft list ruleset", inWSL{prints: "table ip wslmirror"}},
	{"nft list", name{}},
	{"nft -f", by{"nft", "TestReplaceTakesATableThatNobodyOwns", "nft -f -"}},
	{"journalctl -u", by{"packaging", "watchdogBites", `"journalctl", "--unit=wslmirror"`}},

	// It is removed.
	{"sudo apt purge wslmirror", inWSL{answer: "y", then: func(s service) {
		if out := s.run("nft", "list", "ruleset"); strings.Contains(out, "table ip wslmirror") {
			s.tb.Errorf("after the purge there is still\n%s", out)
		}
	}}},
	{"sudo dnf remove wslmirror", inFedora{prints: "Removed:"}},

	// The repository's own.
	{"sudo make demo", by{"cmd/mirrorlab", "TestRecording", "sudo make demo"}},
	{"mirrorlab demo", by{"cmd/mirrorlab", "TestDemo", `program(t, "demo")`}},
	{"mirrorlab demo --mode consomme", onBench{"mirrorlab demo --mode consomme"}},
	{"mirrorlab directions", by{"cmd/mirrorlab", "TestDirections", `findProgram("directions"`}},
	{"mirrorlab chaos", name{}},
	{"mirrorlab chaos --steps 100", onBench{"mirrorlab chaos --steps 10"}},
	{"mirrorlab chaos --mode MODE --steps 10000 --worlds 2 --rest 300ms", onBench{"mirrorlab chaos --mode consomme --steps 9 --worlds 2 --rest 300ms"}},
	{"mirrorlab bench --only server,alone --rounds 60", onBench{shortBench}},
	{"mirrorlab bench --trial keepalive --only server,alone --rounds 90", onBench{shortBench}},
	{"mirrorlab bench --rounds 20 --svg cmd/mirrorlab/bench.svg --readme docs/performance.md", onBench{shortBench}},
	{"sudo make speed", onBench{shortBench}},
	{"make bench", onBench{shortBenchmark}},
	{"go test ./nft/ruleset -run XXX -bench Beside -benchtime 1x", onBench{shortBenchmark}},
	{"go test ./nft -run XXX -bench Packet -benchtime 1x", onBench{"go test ./nft -run XXX -bench Packet -benchtime 1x -short"}},
	{"make footprint", onBench{`.ci/footprint "$(which wslmirror)" 1`}},
	{"make soak", by{"internal/lab/chaos", "TestSoak", "chaos.Soak("}},
	{"sudo make vm", by{"internal/vm", "TestKernels", "boots()"}},
	{"sudo make vm KERNELS=wsl", by{"internal/vm", "TestKernels", "boots()"}},
	{"make test", by{".ci/run", "", "exec make test"}},
	{"sudo make test", by{".ci/run", "", "exec make test"}},
	{"go test ./internal/e2e -run DirectChurn -v", by{"internal/e2e", "TestDirectChurn", ""}},
	{"WSLMIRROR_RULESETS=1000 go test ./internal/e2e -run TestTraceAsKernel", by{"internal/e2e", "TestTraceAsKernel", "WSLMIRROR_RULESETS"}},
}

var (
	codeBlock  = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	codeInText = regexp.MustCompile("`([^`\n]+)`")
	// In text only these are commands, with at least an argument.
	command = regexp.MustCompile(`^(sudo|wslmirror|mirrorlab|nft|make|systemctl|journalctl|go test|docker|wslinfo|curl|dpkg|apt|ip rule) .|^WSLMIRROR_(OPTS|HOLD)=|^[A-Z_]+=\S* go test `)
	// In a block these are commands. Others are the output of one.
	inBlock = regexp.MustCompile(`(?m)^\$ (.+)$|^(?: +|.*[:#] +)(sudo .+)$|^ +(net(?:sh)? .+)$`)
)

// pages returns README.md and the pages of docs, by name.
func pages(tb testing.TB) map[string]string {
	tb.Helper()
	texts := make(map[string]string)
	files, err := filepath.Glob("../docs/*.md")
	if err != nil || len(files) < 10 {
		tb.Fatalf("docs has the pages %q, %v", files, err)
	}
	for _, file := range append(files, "../README.md") {
		b, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		texts[file] = string(b)
	}
	return texts
}

// shownIn returns the commands of a page, and whether they are Windows' own.
func shownIn(page string) map[string]bool {
	found := make(map[string]bool)
	for _, block := range codeBlock.FindAllStringSubmatch(page, -1) {
		if block[1] != "" {
			for line := range strings.Lines(block[2]) {
				line, _, _ = strings.Cut(line, "#")
				found[strings.TrimSpace(line)] = block[1] == "powershell"
			}
		}
		for _, m := range inBlock.FindAllStringSubmatch(block[2], -1) {
			found[m[1]+m[2]+m[3]] = m[3] != ""
		}
	}
	for _, code := range codeInText.FindAllStringSubmatch(codeBlock.ReplaceAllString(page, ""), -1) {
		if command.MatchString(code[1]) {
			found[code[1]] = false
		}
	}
	delete(found, "")
	return found
}

// The table has every command that a page shows, and no other. Those that other tests run
// are there.
func TestEveryCommandIsTested(t *testing.T) {
	table := make(map[string]any)
	for _, c := range commands {
		table[c.typed] = c.how
	}
	if len(table) != len(commands) {
		t.Error("the table has a command twice")
	}
	shown := make(map[string]bool)
	for file, page := range pages(t) {
		for typed, windows := range shownIn(page) {
			shown[typed] = true
			how, ok := table[typed]
			if !ok {
				t.Errorf("%s shows %q, which is not in the table", file, typed)
			} else if _, marked := how.(inWindows); marked != windows {
				t.Errorf("%s shows %q: that it is Windows' own is %v there, and %v in the table", file, typed, windows, marked)
			}
		}
	}
	for _, c := range commands {
		if !shown[c.typed] {
			t.Errorf("no page shows %q", c.typed)
		}
		switch how := c.how.(type) {
		case by:
			if text := source(t, how.folder, how.function); text == "" || !strings.Contains(text, how.contains) {
				t.Errorf("%q: %s in %s does not contain %q", c.typed, how.function, how.folder, how.contains)
			}
		case name:
			if !slices.ContainsFunc(commands, func(other documented) bool {
				return strings.HasPrefix(strings.TrimPrefix(other.typed, "sudo "), c.typed+" ")
			}) {
				t.Errorf("%q is the beginning of no other command", c.typed)
			}
		}
	}
}

// source returns the source of a function in the tests of a folder, or without a function
// the file. It is empty if there is none.
func source(t *testing.T, folder, function string) string {
	t.Helper()
	files := []string{filepath.Join("..", folder)}
	if function != "" {
		files, _ = filepath.Glob(filepath.Join("..", folder, "*_test.go"))
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if function == "" {
			return string(b)
		}
		if m := regexp.MustCompile(`(?ms)^(func|var) ` + function + `\b.*?^}`).Find(b); m != nil {
			return string(m)
		}
	}
	return ""
}

// The commands of the repository.
func TestCommandsOnTheBench(t *testing.T) {
	labtest.NeedTree(t)
	dir := t.TempDir()
	for _, program := range []string{"wslmirror", "mirrorlab"} {
		if err := labtest.Build(filepath.Join(dir, program), program); err != nil {
			t.Fatal(err)
		}
	}
	// The daemon's user must be able to enter.
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	run := make(map[string]bool)
	for _, c := range commands {
		if how, ok := c.how.(onBench); ok && !run[how.instead] {
			run[how.instead] = true
			t.Run(c.typed, func(t *testing.T) {
				t.Parallel()
				cmd := exec.CommandContext(t.Context(), "sh", "-c", how.instead)
				cmd.Dir = ".."
				cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "DIR="+t.TempDir())
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%s", how.instead, err, out)
				}
			})
		}
	}
}

// The commands that differ in Fedora.
func TestCommandsInFedora(t *testing.T) {
	need(t, "dnf", "go")
	tree := newTree(t)
	dnf, err := exec.LookPath("dnf")
	if err != nil {
		t.Fatal(err)
	}
	labtest.Programs(t, map[string]string{"dnf": "exec " + dnf + " --installroot=" + tree + ` --releasever=1 --setopt=reposdir=/nonexistent "$@"`})
	run(t, "dnf", "--assumeyes", "install", systemdRPM(t, tree))
	rpm := pkg(t, packages(t, dist), "rpm")
	downloads := t.TempDir()
	if err := os.Symlink(rpm, filepath.Join(downloads, filepath.Base(rpm))); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		if how, ok := c.how.(inFedora); ok {
			out := run(t, "sh", "-c", `cd "$1" && echo y | `+strings.TrimPrefix(c.typed, "sudo "), "sh", downloads)
			if !strings.Contains(out, how.prints) {
				t.Errorf("%s does not print %q:\n%s", c.typed, how.prints, out)
			}
		}
	}
	if left := named(t, tree); len(left) > 0 {
		t.Errorf("after the removal there is still %q", left)
	}
}

// The commands of the user, from the download to the removal.
func TestCommandsInWSL(t *testing.T) {
	labtest.NeedTree(t)
	need(t, "curl")
	downloads := packages(t, dist)
	b := labtest.New(t, lab.Options{})
	s := boot(t, b, "debian")[0]
	docker, err := s.StartDocker()
	if err != nil {
		t.Fatal(err)
	}
	labtest.RunContainer(t, docker, "web", "8080:80/tcp")
	if _, err := b.Windows.ServeEcho("tcp", "127.0.0.1:11434"); err != nil { // in Ollama's place
		t.Fatal(err)
	}
	deb := pkg(t, downloads, "deb")
	s.copyIn(deb, "/root/"+filepath.Base(deb))
	s.copyIn(filepath.Join(downloads, "SHA256SUMS"), "/root/SHA256SUMS")
	// The first user of Debian and Ubuntu in WSL may read the journal, and Docker's
	// documentation says how to be in its group.
	s.run("usermod", "--append", "--groups", "adm,docker", "user")
	s.hasCurl()
	s.hasWindows(t)

	if out, err := b.Windows.Run("curl", strings.Fields(curlInWindows)[1:]...); exitCode(err) != 28 {
		t.Errorf("without wslmirror curl in Windows does not time out: %q, %v", out, err)
	}
	for _, c := range commands {
		how, ok := c.how.(inWSL)
		if !ok {
			continue
		}
		if ok := t.Run(c.typed, func(t *testing.T) { service{t, s.Distro, b}.try(c.typed, how) }); !ok {
			t.Fatal("what follows builds on it")
		}
		if c.typed == "wslmirror status" {
			if out, err := b.Windows.Run("curl", strings.Fields(curlInWindows)[1:]...); err != nil || !strings.Contains(out, "web") {
				t.Errorf("with wslmirror Windows gets the answer %q, %v", out, err)
			}
		}
	}
}

// try runs a documented command in the folder of a user, who has downloaded the package
// if it is root.
func (s service) try(typed string, how inWSL) {
	s.tb.Helper()
	if how.given != nil {
		how.given(s)
	}
	script, sudo := strings.CutPrefix(typed, "sudo ")
	user := "user"
	if sudo || regexp.MustCompile(`^(sha256sum|nft|systemctl|WSLMIRROR_)`).MatchString(typed) {
		user = "root"
	}
	switch {
	case strings.HasPrefix(typed, "WSLMIRROR_"):
		setting, _, _ := strings.Cut(typed, "=")
		script = "sed --in-place 's|^" + setting + "=.*|" + typed + "|' /etc/default/wslmirror"
	case how.until != "":
		script += ` & until ` + how.until + `; do kill -0 $! || exit 1; sleep 0.1; done; kill $! && wait $!`
	case how.answer != "":
		script = "echo " + how.answer + " | " + script
	}
	out, err := s.RunAs(user, "sh", "-c", "cd && "+script)
	if exitCode(err) != how.exit || err != nil && how.exit == 0 {
		s.tb.Fatalf("%v, want exit %d\n%s", err, how.exit, out)
	}
	if !strings.Contains(out, how.prints) {
		s.tb.Errorf("does not print %q:\n%s", how.prints, out)
	}
	if how.shown != "" {
		s.looksLike(out, how.shown)
	}
	if how.then != nil {
		how.then(s)
	}
}

// looksLike compares an output with the one that a page shows: each line there is in the
// output, wherever that wraps lines, and up to numbers and names that begin with one.
func (s service) looksLike(out, beginning string) {
	s.tb.Helper()
	shape := func(text string) string {
		text = regexp.MustCompile(`(under )?\d[\w.:/-]*`).ReplaceAllString(text, "0")
		return strings.Join(strings.Fields(text), " ")
	}
	for _, page := range pages(s.tb) {
		for _, block := range codeBlock.FindAllStringSubmatch(page, -1) {
			_, shown, ok := strings.Cut("\n"+block[2], "\n"+beginning)
			if !ok {
				continue
			}
			for line := range strings.Lines(beginning + shown) {
				if want := shape(line); want != "..." && !strings.Contains(shape(out), want) {
					s.tb.Errorf("the page shows the line %q, which is not in\n%s", line, out)
				}
			}
			return
		}
	}
	s.tb.Errorf("no page shows %q", beginning)
}

// copyIn copies a file of this machine into the distribution.
func (s service) copyIn(from, to string) {
	s.tb.Helper()
	if err := s.CopyIn(from, to); err != nil {
		s.tb.Fatal(err)
	}
}

// hasCurl gives the distribution this machine's curl, with its libraries, in /opt/curl.
func (s service) hasCurl() {
	s.tb.Helper()
	out, err := exec.Command("sh", "-c", `ldd "$(which curl)" && which curl`).Output()
	if err != nil {
		s.tb.Fatal(err)
	}
	for _, file := range regexp.MustCompile(`(?m)/\S+`).FindAllString(string(out), -1) {
		s.copyIn(file, "/opt/curl/"+filepath.Base(file))
	}
	s.run("sh", "-ec", `cd /opt/curl
		mv ld-linux* ld.so
		echo 'hosts: files' >nsswitch.conf
		printf '#!/bin/sh\nexec /opt/curl/ld.so --library-path /opt/curl /opt/curl/curl "$@"\n' >/usr/local/bin/curl
		chmod 755 /usr/local/bin/curl ld.so curl`)
}

// hasCurlImage imports an image of that curl, under the name of the one that curl
// publishes.
func hasCurlImage(s service) {
	s.run("sh", "-ec", `mkdir --parents /opt/image/etc && mv /opt/curl/nsswitch.conf /opt/image/etc && cp --recursive /opt/curl /opt/image
		tar --create --directory /opt/image . |
		docker import --change 'ENTRYPOINT ["/curl/ld.so", "--library-path", "/curl", "/curl/curl"]' - curlimages/curl`)
}

// hasWindows gives the distribution the programs of Windows that wslmirror asks.
func (s service) hasWindows(t *testing.T) {
	t.Helper()
	labtest.PlayWindows(t, "en")
	for _, program := range []string{"netsh.exe", "netstat.exe"} {
		script, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		s.copyIn(script, "/usr/local/bin/"+program)
		b, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		for _, recorded := range regexp.MustCompile(`cat (/\S+)`).FindAllStringSubmatch(string(b), -1) {
			s.copyIn(recorded[1], recorded[1])
		}
	}
}

func isActive(s service) { s.await(status.Active, 0) }

// sendRequests gives the daemon something to count. One connection stays.
func sendRequests(s service) {
	for _, from := range []*lab.Host{s.bench.Windows, s.bench.WSL} {
		for range 2 {
			if answer, err := from.Ask("tcp", "127.0.0.1:8080", patience); err != nil || answer != "web" {
				s.tb.Errorf("%s gets the answer %q, %v", from.Name, answer, err)
			}
		}
	}
	if _, err := s.bench.WSL.Dial("tcp", "", "127.0.0.1:8080", patience); err != nil {
		s.tb.Error(err)
	}
}

// listensOn3000 starts a program of the name python3, which the distribution lacks.
func listensOn3000(s service) {
	s.run("cp", "/usr/bin/perl", "/usr/local/bin/python3")
	s.run("systemd-run", "--quiet", "python3", "-MIO::Socket::INET", "-e", `for (IO::Socket::INET->new(LocalAddr => "127.0.0.1:3000", Listen => 1)) { sleep }`)
	labtest.Eventually(s.tb, "it listens", func() bool {
		out, _ := s.Run("ss", "--no-header", "--listening", "--tcp", "sport = :3000")
		return out != ""
	})
}

// hasFirewall adds a firewall that drops what arrives on loopback0.
func hasFirewall(s service) {
	s.run("nft", "table inet fw { chain in { type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept; }; }")
}
