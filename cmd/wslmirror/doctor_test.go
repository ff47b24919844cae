package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
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
	if err := printReport(&b, screen{width: 96}, r); err != nil {
		t.Fatal(err)
	}
	want := `✗ fault service: no wslmirror is running
    In mirrored mode a port that a container publishes may not answer on localhost in Windows,
    and this sentence goes on.
        sudo one
        # and
        sudo two
    https://github.com/microsoft/WSL/issues/10494

! warning ufw: a name with ?[31m in it
        sudo ?]0;x

? unknown firewalld: could not see that
    Because.
        sudo three

✓ ok container-to-windows: it is off
        # four

? unknown   table       could not see it
✓ ok        wsl         mirrored
✓ ok        loopback0   index 2
Not applicable here: podman

1 fault, 1 warning, 2 unknown, 3 ok (sudo shows more)
More on each check: https://github.com/wslmirror/wslmirror/blob/main/docs/doctor.md
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if err := printReport(&b, screen{width: 96, colour: true}, r); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, "\x1b[31m✗ fault\x1b[m service: ") || strings.Contains(got, "with \x1b") {
		t.Errorf("in colour: %q", got)
	}
	b.Reset()
	printReport(&b, paper, report(doctor.Check{Name: "wsl", Verdict: doctor.OK}))
	if !strings.HasSuffix(b.String(), "\nNo fault found: 1 ok\n") {
		t.Errorf("%q", b.String())
	}
}

// Where there is no WSL, that is the first thing to know.
func TestPrintReportOutsideWSL(t *testing.T) {
	var b bytes.Buffer
	printReport(&b, screen{width: 96, ascii: true}, report(
		doctor.Check{Name: "nics", Verdict: doctor.OK, Seen: "eth0 is up"},
		doctor.Check{Name: "wsl", Verdict: doctor.NotApplicable, Seen: "this is not WSL (kernel 6.1, no wslinfo)"},
	))
	if want := "This is not WSL (kernel 6.1, no wslinfo): the checks of what WSL sets up do not apply.\n\n[ok]   nics   eth0 is up\n"; !strings.HasPrefix(b.String(), want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
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
		{[]string{"--json", "--bundle", "x"}, exitUsage, "cannot be combined"},
		{[]string{"--bundle"}, exitUsage, "--bundle needs an argument"},
		{[]string{"--bundle", there}, exitFailure, "already exists"},
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
	labtest.NeedTime(t)
	hang := "exec sleep 1000"
	labtest.Programs(t, map[string]string{
		"wslinfo": hang, "netsh.exe": hang, "netstat.exe": hang, "podman": hang, "docker": hang,
		"nft": hang, "iptables": hang, "journalctl": hang, "systemctl": hang,
	})
	bundle := filepath.Join(t.TempDir(), "bundle")
	began := time.Now()
	code, _, stderr := call("doctor", "--bundle", bundle, "--runtime-dir", t.TempDir())
	if took := time.Since(began); took > labtest.Patience() || stderr != "" {
		t.Errorf("exit %d after %v, %s", code, took, stderr)
	}
	text, err := os.ReadFile(bundle)
	if err != nil || !strings.Contains(string(text), "no answer in time") {
		t.Errorf("%v: %s", err, text)
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
