package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

func report(checks ...doctor.Check) doctor.Report {
	r := doctor.Report{Checks: checks, Seen: &doctor.Observation{}}
	for _, c := range checks {
		switch c.Verdict {
		case doctor.Fault:
			r.Summary.Faults++
		case doctor.Warning:
			r.Summary.Warnings++
		case doctor.Unknown:
			r.Summary.Unknown++
		case doctor.OK:
			r.Summary.OK++
		default:
			r.Summary.NotApplicable++
		}
	}
	return r
}

func TestPrintReport(t *testing.T) {
	r := report(
		doctor.Check{Name: "service", Verdict: doctor.Fault, Seen: "no wslmirror is running",
			Why: "In mirrored mode a port that a container publishes may not answer on localhost in Windows, and this sentence goes on.",
			Do:  "sudo one\n# and\nsudo two", Link: "https://github.com/microsoft/WSL/issues/10494"},
		doctor.Check{Name: "ufw", Verdict: doctor.Warning, Seen: "a name with \x1b[31m in it", Do: "sudo \x1b]0;x"},
		doctor.Check{Name: "firewalld", Verdict: doctor.Unknown, Seen: "could not see that", Why: "Because.", Do: "sudo three"},
		doctor.Check{Name: "table", Verdict: doctor.Unknown, Seen: "could not see it"},
		doctor.Check{Name: "container-to-windows", Verdict: doctor.OK, Seen: "it is off", Do: "# four"},
		doctor.Check{Name: "wsl", Verdict: doctor.OK, Seen: "mirrored"},
		doctor.Check{Name: "loopback0", Verdict: doctor.OK, Seen: "index 2"},
		doctor.Check{Name: "podman", Verdict: doctor.NotApplicable, Seen: "none"},
	)
	var b bytes.Buffer
	if err := printReport(&b, r, false); err != nil {
		t.Fatal(err)
	}
	want := `✗ service: no wslmirror is running
    In mirrored mode a port that a container publishes may not answer on localhost in Windows,
    and this sentence goes on.
        sudo one
        # and
        sudo two
    https://github.com/microsoft/WSL/issues/10494

! ufw: a name with ?[31m in it
        sudo ?]0;x

? firewalld: could not see that
    Because.
        sudo three

✓ container-to-windows: it is off
        # four

? table       could not see it
✓ wsl         mirrored
✓ loopback0   index 2
Not applicable here: podman

1 fault, 1 warning, 2 not seen, 3 as it should be: with sudo it sees more
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if err := printReport(&b, r, true); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, "\x1b[31m✗\x1b[m service") || strings.Contains(got, "with \x1b") {
		t.Errorf("in colour: %q", got)
	}
	b.Reset()
	printReport(&b, report(doctor.Check{Name: "wsl", Verdict: doctor.OK}), false)
	if !strings.HasSuffix(b.String(), "\nNo fault found: 1 as it should be\n") {
		t.Errorf("%q", b.String())
	}
}

func TestColourful(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, test := range []struct {
		w       io.Writer
		noColor string
		term    string
		want    bool
	}{
		{master, "", "xterm", true},
		{master, "1", "xterm", false},
		{master, "", "dumb", false},
		{file, "", "xterm", false},
		{new(bytes.Buffer), "", "xterm", false},
	} {
		t.Setenv("NO_COLOR", test.noColor)
		t.Setenv("TERM", test.term)
		if got := colourful(test.w); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

func TestDoctorUsage(t *testing.T) {
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"now"}, exitUsage, `doctor takes no argument "now"`},
		{[]string{"--json", "--bundle", "x"}, exitUsage, "do not go together"},
		{[]string{"--bundle"}, exitUsage, "needs an argument"},
		{[]string{"--bundle", there}, exitFailure, "is there already"},
		{[]string{"--bundle", filepath.Join(there, "x")}, exitFailure, "not a directory"},
	} {
		code, stdout, stderr := call(append([]string{"doctor"}, test.args...)...)
		if code != test.code || stdout != "" || !strings.Contains(stderr, test.want) || !strings.Contains(stderr, "\nhint: ") {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", test.args, code, stdout, stderr)
		}
	}
	if b, _ := os.ReadFile(there); string(b) != "precious" {
		t.Errorf("overwritten: %q", b)
	}
}

// Whatever hangs, it ends.
func TestDoctorEnds(t *testing.T) {
	hang := "sleep 60"
	standIns(t, map[string]string{
		"wslinfo": hang, "netsh.exe": hang, "netstat.exe": hang, "podman": hang, "docker": hang,
		"nft": hang, "iptables": hang, "journalctl": hang, "systemctl": hang,
	})
	bundle := filepath.Join(t.TempDir(), "bundle")
	began := time.Now()
	code, _, stderr := call("doctor", "--bundle", bundle, "--runtime-dir", t.TempDir())
	if took := time.Since(began); took > 5*time.Second || stderr != "" {
		t.Errorf("exit %d after %v, %s", code, took, stderr)
	}
	text, err := os.ReadFile(bundle)
	if err != nil || !strings.Contains(string(text), "no answer in time") {
		t.Errorf("%v: %s", err, text)
	}
}

// An ordinary user sees most of it, and is told what he does not.
func TestDoctorAsOrdinaryUser(t *testing.T) {
	playMirrored(t)
	b := labtest.New(t, lab.Options{})
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	publishes(t, b, d)
	for dir := d.dir; dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	diagnoseAs := func(args ...string) (string, int) {
		t.Helper()
		cmd := asNobody(t)(append([]string{"doctor", "--runtime-dir", d.dir}, args...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		p, err := b.WSL.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		p.Wait()
		return out.String(), cmd.ProcessState.ExitCode()
	}
	out, exit := diagnoseAs("--json")
	var got diagnosis
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got.exit = exit
	got.expect(t, "as an ordinary user")
	for name, want := range map[string]doctor.Verdict{
		"loopback0": doctor.OK, "table-127": doctor.OK, "gateway": doctor.OK, "ip-rules": doctor.OK, "rp-filter": doctor.OK,
		"port-range": doctor.OK, "published-ports": doctor.OK, "service": doctor.OK, "table": doctor.OK,
		"wsl-chains": doctor.Unknown, "iptables-legacy": doctor.Unknown,
	} {
		if c := got.check(name); c.Verdict != want {
			t.Errorf("want %s: %+v", want, c)
		}
	}
	got.sees(t, "wsl-chains", doctor.Unknown, "only root may read the ruleset")
	if out, _ = diagnoseAs(); !strings.Contains(out, "with sudo it sees more") {
		t.Error(out)
	}
}

// It sends no packet: to a closed port of 127.0.0.1 a connection would hang.
func TestDoctorSendsNothing(t *testing.T) {
	playMirrored(t)
	b := labtest.New(t, lab.Options{})
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	publishes(t, b, d)
	const watch = `nft 'table inet watch { chain output { type filter hook output priority -400; meta l4proto { tcp, udp } counter; }; }'`
	if _, err := b.WSL.Run("sh", "-c", watch); err != nil {
		t.Fatal(err)
	}
	diagnose(t, b.WSL, d.dir)
	if _, err := b.WSL.Run("sh", "-c", fmt.Sprintf("WSLMIRROR_TEST_AS_PROGRAM=1 %s doctor --bundle %s/bundle", os.Args[0], t.TempDir())); err != nil && !strings.Contains(err.Error(), "exit status 1") {
		t.Fatal(err)
	}
	out, err := b.WSL.Run("nft", "list", "table", "inet", "watch")
	if err != nil || !strings.Contains(out, "counter packets 0 ") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestBundle(t *testing.T) {
	playMirrored(t)
	t.Setenv("USER", "zaphod")
	t.Setenv("NAME", "heart-of-gold")
	t.Setenv("SUDO_UID", "65534")
	t.Setenv("SUDO_GID", "65534")
	b := labtest.New(t, lab.Options{})
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	publishes(t, b, d)
	// What is private comes from everywhere: routes, rules, addresses, chains.
	for _, script := range []string{
		"ip addr add 93.184.216.34/32 dev eth0", "ip -6 addr add 2a00:1450:4001:81b::200e/64 dev eth0 nodad",
		"ip route add 8.8.8.0/24 via 192.0.2.1", "ip rule add pref 100 from 9.9.9.9 lookup main",
		`nft 'table ip zaphod { comment "made on HEART-OF-GOLD in /home/zaphod by Zaphod"; chain c { ip saddr 1.1.1.1 tcp dport 80 accept; ip daddr 10.1.2.3 drop; }; }'`,
		`nft 'table ip6 x { chain c { ip6 saddr 2606:4700:4700::1111 drop; }; }'`,
	} {
		if _, err := b.WSL.Run("sh", "-c", script); err != nil {
			t.Fatal(err)
		}
	}
	// A dockerd with secrets, and with a section of its own making.
	dockerd := filepath.Join(t.TempDir(), "dockerd")
	if err := os.Symlink("/bin/sh", dockerd); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WSL.Start(exec.Command(dockerd, "-c", "while :; do sleep 1; done", "--http-proxy=http://arthur:dent42@10.0.0.1:3128",
		"--dns-search", "magrathea.example", "--userland-proxy=false", "--iptables=x\n==== forged ====\n")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "bundle.txt")
	cmd := program("doctor", "--bundle", file, "--runtime-dir", d.dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := b.WSL.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("%v: %s", err, &out)
	}
	if !strings.HasPrefix(out.String(), "Wrote "+file+": No fault found") {
		t.Error(out.String())
	}
	fi, err := os.Stat(file)
	if err != nil || fi.Mode() != 0o600 || fi.Sys().(*syscall.Stat_t).Uid != 65534 {
		t.Errorf("%v, %+v", err, fi)
	}
	all, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(all)
	for _, want := range []string{
		"==== wslmirror doctor ====", "✓ loopback0", "==== the network ====", "table 127", "169.254.73.249", "192.0.2.2", "0: from all fwmark 0x1000/0x1000",
		"==== wslmirror status --json ====", `"state": "active"`, "==== wslmirror ports ====", "8080/tcp", "2.9.5.0",
		"--http-proxy=…", "--dns-search …", "--userland-proxy=false", "==== nft list ruleset ====", "chain WSLPREROUTING", "ip daddr 10.1.2.3 drop", "==== journalctl", `"verdict": "ok"`, "<address-1>", "<user-", "<host-",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q", want)
		}
	}
	for _, private := range []string{
		"zaphod", "heart-of-gold", "93.184.216.34", "2a00:1450", "8.8.8.0", "9.9.9.9", "1.1.1.1", "2606:4700",
		"dent42", "magrathea", "\n==== forged",
	} {
		if strings.Contains(strings.ToLower(text), private) {
			t.Errorf("%q is in it", private)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// What a program or a file says cannot look like another part of the bundle.
func TestBundleIsNotForged(t *testing.T) {
	var b bytes.Buffer
	r := report()
	r.Seen.Programs.Value = []doctor.Program{{PID: 7, Name: "dockerd", Args: []string{"dockerd", "--iptables=x\n==== forged ====\n"}, Sure: true}}
	extra := []section{{"nft list ruleset", "one\n==== forged ====\ntwo"}}
	if err := writeBundle(&b, r, extra, doctor.NewRedactor(t.Context(), t.TempDir())); err != nil {
		t.Fatal(err)
	}
	if text := b.String(); strings.Contains(text, "\n==== forged") || strings.Count(text, "forged") != 2 || !strings.Contains(text, "\n==== nft list ruleset ====\none\n") {
		t.Error(text)
	}
}

// Windows' drives (DrvFs) let nobody change an owner, and a bundle there is one all
// the same.
func TestBundleWhereNobodyOwns(t *testing.T) {
	labtest.NeedRoot(t)
	t.Setenv("SUDO_UID", "65534")
	t.Setenv("SUDO_GID", "65534")
	path := filepath.Join(t.TempDir(), "bundle")
	made := make(chan error)
	go func() {
		// The kernel says EPERM to a thread without CAP_CHOWN, too. Nobody gets it
		// after this: it ends with the goroutine.
		runtime.LockOSThread()
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		err := unix.Capget(&head, &caps[0])
		caps[0].Effective &^= 1 << unix.CAP_CHOWN
		if err = errors.Join(err, unix.Capset(&head, &caps[0])); err == nil {
			var f *os.File
			if f, err = createBundle(path); err == nil {
				f.Close()
			}
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("%v, %+v", err, fi)
	}
}
