package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// playMirrored makes the bench look like WSL to programs.
func playMirrored(t *testing.T) {
	labtest.Programs(t, map[string]string{
		"wslinfo":     `case $1 in --networking-mode) printf mirrored;; *) echo 2.9.5.0;; esac`,
		"netsh.exe":   `printf '\r\n  80  80\r\n  50000  50059     *\r\n'`,
		"netstat.exe": `printf '  TCP    0.0.0.0:135    0.0.0.0:0    LISTENING    1234\r\n'`,
	})
}

// A diagnosis is the output of "wslmirror doctor --json".
type diagnosis struct {
	Checks  []doctor.Check
	Summary doctor.Summary
	exit    int
}

// diagnose runs doctor in h.
func diagnose(t *testing.T, h *lab.Host, dir string) (d diagnosis) {
	t.Helper()
	cmd := program(t, "doctor", "--json", "--runtime-dir", dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	p, err := h.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	labtest.WantValid(t, "doctor", out.Bytes())
	if err := json.Unmarshal(out.Bytes(), &d); err != nil || errs.Len() > 0 {
		t.Fatalf("%v, stderr %q, stdout %s", err, errs.String(), out.String())
	}
	d.exit = cmd.ProcessState.ExitCode()
	return d
}

// faults returns the names of the faults in d.
func (d diagnosis) faults() (names []string) {
	for _, c := range d.Checks {
		if c.Verdict == doctor.Fault {
			names = append(names, c.Name)
		}
	}
	return names
}

func (d diagnosis) check(name string) doctor.Check {
	i := slices.IndexFunc(d.Checks, func(c doctor.Check) bool { return c.Name == name })
	if i < 0 {
		return doctor.Check{}
	}
	return d.Checks[i]
}

func (d diagnosis) String() string {
	var b strings.Builder
	for _, c := range d.Checks {
		fmt.Fprintf(&b, "%s %s: %s\n", c.Verdict, c.Name, c.Seen)
	}
	return b.String()
}

// expect fails the test unless the faults are exactly those in want.
func (d diagnosis) expect(t *testing.T, when string, want ...string) {
	t.Helper()
	wantExit := exitOK
	if len(want) > 0 {
		wantExit = exitFailure
	}
	if got := d.faults(); !slices.Equal(got, want) || d.exit != wantExit || d.Summary.Faults != len(want) {
		t.Errorf("%s: faults %q, exit %d; want %q, exit %d\n%s", when, got, d.exit, want, wantExit, d)
	}
}

// sees fails the test unless a check has the verdict want and its text contains says.
func (d diagnosis) sees(t *testing.T, name string, want doctor.Verdict, says string) {
	t.Helper()
	if c := d.check(name); c.Verdict != want || !strings.Contains(c.Seen, says) {
		t.Errorf("want %s with %q: %+v", want, says, c)
	}
}

// publishes creates a container with a published port, and waits until the daemon has seen
// it.
func publishes(t *testing.T, b *lab.Bench, d *daemon) {
	t.Helper()
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	for _, proto := range []string{"tcp", "udp"} {
		if err := engine.Publish(proto, "0.0.0.0:8080"); err != nil {
			t.Fatal(err)
		}
	}
	d.await("two ports", func(s status.Snapshot) bool { return len(s.Ports) == 2 })
}

// An ordinary user gets most checks, and doctor names those that need root.
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
	got.sees(t, "wsl-chains", doctor.Unknown, "only root can read the ruleset")
	if out, _ = diagnoseAs(); !strings.Contains(out, "(sudo shows more)") {
		t.Error(out)
	}
}

// Doctor sends no packet: a connection to a closed port of 127.0.0.1 would hang.
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
	if _, err := b.WSL.Run("sh", "-c", fmt.Sprintf("%s doctor --bundle %s/bundle", must(t, service).Path, t.TempDir())); err != nil && !strings.Contains(err.Error(), "exit status 1") {
		t.Fatal(err)
	}
	out, err := b.WSL.Run("nft", "list", "table", "inet", "watch")
	if err != nil || !strings.Contains(out, "counter packets 0 ") {
		t.Errorf("%v: %s", err, out)
	}
}

// Real engines: healthy ones, and one that started before loopback0 existed.
func TestDoctorWithEngines(t *testing.T) {
	playMirrored(t)
	for _, test := range []struct {
		engine string
		late   bool
		args   []string
		want   []string
		docker string // the beginning of what docker-loopback0 says
	}{
		{"docker-20.10", false, nil, nil, "Docker has no exception"},
		{"docker-iptables", false, nil, nil, "Docker itself allows loopback0"},
		{"docker-nftables", false, nil, nil, "Docker itself allows loopback0"},
		{"docker-iptables", true, nil, nil, "Docker started before loopback0 existed; wslmirror lets"},
		{"docker-iptables", true, []string{"--repair=false"}, []string{"docker-loopback0"}, "packets from Windows are dropped"},
		{"docker-nftables", true, []string{"--repair=false"}, []string{"docker-loopback0"}, "packets from Windows are dropped"},
		{"docker-iptables", false, []string{"--path=direct"}, nil, "Docker itself allows loopback0"},
		{"docker-iptables-noproxy", false, nil, nil, ""},
		{"docker-nftables-noproxy", false, nil, nil, ""},
		{"podman-netavark-nftables", false, nil, nil, "Docker has no rules here"},
		{"podman-cni", false, nil, nil, "Docker has no rules here"},
	} {
		t.Run(fmt.Sprintf("%s late=%v %v", test.engine, test.late, test.args), func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{NoLoopback0: test.late})
			engine := labtest.StartEngine(t, b, test.engine)
			labtest.RunContainer(t, engine, "one", "8080:80/tcp", "8080:80/udp")
			labtest.RunContainer(t, engine, "two", "127.0.0.1:8081:80/tcp", "127.0.0.1:8081:80/udp")
			if test.late {
				if err := b.AddLoopback0(); err != nil {
					t.Fatal(err)
				}
			}
			d := start(t, b.WSL, test.args...)
			d.await("four ports", func(s status.Snapshot) bool { return s.State == status.Active && len(s.Ports) == 4 })
			got := diagnose(t, b.WSL, d.dir)
			got.expect(t, "with "+test.engine, test.want...)
			if len(test.want) == 0 {
				got.sees(t, "directions", doctor.OK, "Windows and Linux to Linux's ports (4), Linux to Windows")
			}
			if c := got.check("docker-loopback0"); !strings.HasPrefix(c.Seen, test.docker) {
				t.Errorf("%+v", c)
			}
			if slices.Contains(test.args, "--path=direct") {
				got.sees(t, "guard", doctor.OK, "wslmirror guards the links")
			}
			if strings.HasPrefix(test.engine, "docker") {
				proxy := "userland proxy on"
				if strings.Contains(test.engine, "noproxy") {
					proxy = "userland proxy off"
				}
				if c := got.check("docker"); !strings.Contains(c.Seen, proxy) {
					t.Errorf("%+v", c)
				}
			}
		})
	}
}
