package packaging

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// The life of the package, from installation to purge, in a distribution that systemd has
// booted and that runs a real Docker.
func TestBooted(t *testing.T) {
	labtest.NeedTree(t)
	deb, newer := pkg(t, packages(t, dist), "deb"), pkg(t, packages(t, distHigher), "deb")
	b := labtest.New(t, lab.Options{})
	s := boot(t, b, "debian")[0]
	docker, err := s.StartDocker()
	if err != nil {
		t.Fatal(err)
	}
	labtest.RunContainer(t, docker, "web", "8080:80/tcp", "8080:80/udp")
	before := traces(s)

	steps := []struct {
		name string
		test func(*testing.T, service)
	}{
		{"install", func(t *testing.T, s service) { installs(t, s, deb) }},
		{"skip", skipsElsewhere},
		{"without systemd", func(t *testing.T, s service) { runsByHand(t, s, before) }},
		{"enable", enables},
		{"sandbox", isConfined},
		{"hold", holds},
		{"kill", comesBack},
		{"crash", func(t *testing.T, s service) { leavesNothing(t, s, before) }},
		{"watchdog", watchdogBites},
		{"options", refusesOptions},
		{"upgrade", func(t *testing.T, s service) { keepsHolding(t, s, func() { upgrades(t, s, newer) }) }},
		{"remove", func(t *testing.T, s service) { removes(t, s, before) }},
		{"purge", func(t *testing.T, s service) { purges(t, s, before) }},
	}
	for _, step := range steps {
		ok := t.Run(step.name, func(t *testing.T) { step.test(t, service{t, s.Distro, b}) })
		if !ok {
			t.Fatal("what follows builds on it")
		}
	}
}

// Installing does not start the service: the user decides that.
func installs(t *testing.T, s service, deb string) {
	s.unpack(deb)
	for property, want := range map[string]string{"UnitFileState": "disabled", "ActiveState": "inactive"} {
		if got := s.show(property); got != want {
			t.Errorf("%s is %q, want %q", property, got, want)
		}
	}
	if got := s.status().State; got != status.Stopped {
		t.Errorf("the state is %s", got)
	}
	// With this distribution's units: nothing unknown, no cycle.
	if out := s.run("systemd-analyze", "verify", "--man=no", "wslmirror.service"); out != "" {
		t.Errorf("systemd-analyze verify says:\n%s", out)
	}
}

// Outside WSL the service does not start, and says why.
func skipsElsewhere(t *testing.T, s service) {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile("Microsoft|WSL").Match(release) {
		unable(t, "this is WSL")
	}
	s.run("mv", "/usr/bin/wslinfo", "/opt")
	defer s.run("mv", "/opt/wslinfo", "/usr/bin")
	s.run("systemctl", "enable", "--now", "wslmirror")
	defer s.run("systemctl", "disable", "wslmirror")
	if got := s.show("ActiveState") + " " + s.show("ConditionResult"); got != "inactive no" {
		t.Errorf("state and condition are %q", got)
	}
	out, _ := s.Run("systemctl", "status", "wslmirror") // exit 3: it does not run
	for _, reason := range []string{"ConditionVirtualization=|wsl", "ConditionPathExists=|/usr/bin/wslinfo"} {
		if !strings.Contains(out, reason) {
			t.Errorf("systemctl status does not say %q:\n%s", reason, out)
		}
	}
}

// What the user sees after the one command that the package tells him to run.
func enables(t *testing.T, s service) {
	if answer, err := s.bench.Windows.Ask("tcp", "127.0.0.1:8080", 200*time.Millisecond); err == nil {
		t.Errorf("Windows is answered without wslmirror: %q", answer)
	}
	s.run("systemctl", "enable", "--now", "wslmirror")

	out, err := s.RunAs("user", "wslmirror", "status")
	if err != nil || !strings.HasPrefix(out, "● active: ") {
		t.Errorf("status for an ordinary user: %v\n%s", err, out)
	}
	sentence, _, _ := strings.Cut(strings.TrimPrefix(out, "● active: "), "\n")
	if out := s.run("systemctl", "status", "wslmirror"); !strings.Contains(out, `Status: "`+sentence+`"`) {
		t.Errorf("systemctl status does not say %q:\n%s", sentence, out)
	}
	for _, proto := range []string{"tcp", "udp"} {
		for _, from := range []*lab.Host{s.bench.Windows, s.bench.WSL} {
			if answer, err := from.Ask(proto, "127.0.0.1:8080", patience); err != nil || answer != "web" {
				t.Errorf("%s to the container by %s: %q, %v", from.Name, proto, answer, err)
			}
		}
	}

	journal := s.journal()
	calm(t, s.Name, journal)
	i := slices.IndexFunc(journal, func(e entry) bool { return e.field("WSLMIRROR_STATE") != "" })
	if i < 0 {
		t.Fatalf("no entry has a state: %v", journal)
	}
	for field, want := range map[string]string{
		"MESSAGE":             sentence, // and no time before it
		"PRIORITY":            "6",
		"SYSLOG_IDENTIFIER":   "wslmirror",
		"WSLMIRROR_STATE":     "active",
		"WSLMIRROR_INTERFACE": "loopback0",
		"_SYSTEMD_UNIT":       "wslmirror.service",
	} {
		if got := journal[i].field(field); got != want {
			t.Errorf("in the journal %s is %q, want %q", field, got, want)
		}
	}
}

// WSL starts the daemon where systemd does not, with the command that INSTALL gives. Its
// rights are still those of the service.
func runsByHand(t *testing.T, s service, before map[string]string) {
	b, err := os.ReadFile("INSTALL")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^ +\[boot\]\n +command=(.*)$`).FindSubmatch(b)
	if m == nil {
		t.Fatal("INSTALL names no command")
	}
	s.run("mkdir", "/run/WSL")
	// WSL runs it like this (ConfigInitializeInstance in src/linux/init/config.cpp).
	s.run("sh", "-c", `setsid /bin/sh -c "$1" </dev/null >/dev/null 2>&1 &`, "sh", string(m[1]))
	now := s.await(status.Active, 0)
	pid := strconv.Itoa(now.PID)
	hasOneRight(t, s, pid)
	for _, dir := range []string{"/mnt", "/run/WSL"} {
		look := []string{"setpriv", "--reuid=65534", "--clear-groups", "ls", dir}
		s.run(look...)
		if out, err := s.Run(append([]string{"nsenter", "--target", pid, "--mount"}, look...)...); err == nil {
			t.Errorf("it sees %s: %s", dir, out)
		}
	}
	s.run("kill", pid)
	s.await(status.Stopped, now.PID)
	sameKernel(t, before, traces(s))
	if log := s.run("cat", "/var/log/wslmirror.log"); !strings.Contains(log, "removed everything that it added") {
		t.Errorf("the log is:\n%s", log)
	}
	s.run("rm", "-r", "/var/log/wslmirror.log", "/run/wslmirror", "/run/WSL")
}

// The running process has the rights that the unit leaves it, and no more.
func isConfined(t *testing.T, s service) {
	hasOneRight(t, s, s.show("MainPID"))
	out := s.run("systemd-analyze", "security", "wslmirror")
	m := regexp.MustCompile(`Overall exposure level for wslmirror.service: ([0-9.]+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("systemd-analyze security says:\n%s", out)
	}
	t.Logf("exposure %s", m[1])
	if level, err := strconv.ParseFloat(m[1], 64); err != nil || level > 1.1 {
		t.Errorf("exposure %s, want 1.1 or lower; %v", m[1], err)
	}
}

// hasOneRight checks the rights of a process.
func hasOneRight(t *testing.T, s service, pid string) {
	t.Helper()
	proc := s.run("cat", "/proc/"+pid+"/status")
	for _, want := range []string{
		"CapInh:\t0+1000", "CapPrm:\t0+1000", "CapEff:\t0+1000", "CapBnd:\t0+1000", "CapAmb:\t0+1000", // 1 << CAP_NET_ADMIN
		"NoNewPrivs:\t1",
		"Seccomp:\t2", // a filter is loaded
		"Uid:(\t[1-9][0-9]*){4}",
		"Gid:(\t[1-9][0-9]*){4}",
		"Umask:\t0077",
	} {
		if !regexp.MustCompile("(?m)^" + want + "$").MatchString(proc) {
			t.Errorf("want %q in:\n%s", want, proc)
		}
	}
}

// Whatever kills the service, systemd restarts it.
func comesBack(t *testing.T, s service) {
	pid := s.status().PID
	table := watchTable(t, s.bench)
	s.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "wslmirror")
	s.await(status.Active, pid)
	t.Logf("back after %v", table.gap(t))
}

// What a crash leaves in the kernel is removed without the daemon.
func leavesNothing(t *testing.T, s service, before map[string]string) {
	s.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "wslmirror")
	s.run("systemctl", "stop", "wslmirror") // before systemd restarts it
	sameKernel(t, before, traces(s))
	s.run("systemctl", "start", "wslmirror")
}

// A daemon that hangs is killed, logs where it hung, and is restarted.
func watchdogBites(t *testing.T, s service) {
	const dir = "/run/systemd/system/wslmirror.service.d"
	s.run("sh", "-c", "mkdir -p "+dir+` && printf '[Service]\nWatchdogSec=2s\n' >`+dir+"/hurry.conf")
	s.run("systemctl", "daemon-reload")
	s.run("systemctl", "restart", "wslmirror")
	pid := s.await(status.Active, 0).PID
	// While it works, it feeds the watchdog.
	ready := s.moment("ActiveEnter")
	labtest.Eventually(t, "systemd has had a sign of life", func() bool { return s.moment("Watchdog") > ready })
	if s.status().PID != pid {
		t.Fatal("killed though it worked")
	}
	table := watchTable(t, s.bench)
	s.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "wslmirror")
	s.await(status.Active, pid)
	table.gap(t)
	log := s.run("journalctl", "--unit=wslmirror", "--output=cat")
	for _, want := range []string{"Watchdog timeout", "SIGABRT", "\ngoroutine "} {
		if !strings.Contains(log, want) {
			t.Errorf("the journal has no %q:\n%s", want, log)
		}
	}
	s.run("rm", "-r", dir)
	s.run("systemctl", "daemon-reload")
	s.run("systemctl", "restart", "wslmirror") // also resets the number of restarts
}

// An upgrade restarts the daemon once. Established connections continue; those that begin
// in the gap are delayed at worst.
func upgrades(t *testing.T, s service, deb string) {
	old := s.await(status.Active, 0)
	cursor := len(s.journal())
	const published = "127.0.0.1:8080"
	established, err := s.bench.Windows.Dial("tcp", "", published, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer established.Close()
	table := watchTable(t, s.bench)

	stop, slowest := make(chan struct{}), make(chan time.Duration, 1)
	finish := sync.OnceValue(func() time.Duration {
		close(stop)
		return <-slowest
	})
	defer finish()
	go func() {
		var most time.Duration
		defer func() { slowest <- most }()
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if answer, err := established.Ask(patience); err != nil || answer != "web" {
				t.Errorf("the established connection: %q, %v", answer, err)
				return
			}
			start := time.Now()
			if answer, err := s.bench.Windows.Ask("tcp", published, patience); err != nil || answer != "web" {
				t.Errorf("a new connection: %q, %v", answer, err)
				return
			}
			most = max(most, time.Since(start))
		}
	}()
	s.unpack(deb)
	now := s.await(status.Active, old.PID)
	t.Logf("the slowest new connection took %v", finish())
	gap := table.gap(t)
	t.Logf("without the table for %v", gap)
	if now.Version != higher || old.Version == higher {
		t.Errorf("from version %s to %s", old.Version, now.Version)
	}
	if got := s.show("UnitFileState"); got != "enabled" {
		t.Errorf("after the upgrade the service is %s", got)
	}
	if got := s.run("systemctl", "show", "--property=ActiveState,NRestarts", "--value", "wslmirror-hold"); got != "0\nactive" && got != "active\n0" {
		t.Errorf("after the upgrade the holder is %q", got)
	}
	journal := s.journal()[cursor:]
	calm(t, s.Name, journal)
	if got := states(journal); got != "active" {
		t.Errorf("in the upgrade the daemon came to the states %q", got)
	}
}

// Removing stops the service and keeps the settings.
func removes(t *testing.T, s service, before map[string]string) {
	cursor := len(s.journal())
	s.run("dpkg", "--remove", "wslmirror")
	calm(t, s.Name, s.journal()[cursor:])
	sameKernel(t, before, traces(s))
	s.run("test", "-e", "/etc/default/wslmirror")
}

// The purge leaves nothing, under our name or any other.
func purges(t *testing.T, s service, before map[string]string) {
	s.run("dpkg", "--purge", "wslmirror")
	after := traces(s)
	for what, want := range before {
		if got := after[what]; got != want {
			t.Errorf("%s differs:\n%s", what, difference(want, got))
		}
	}
	if out, err := s.Run("dpkg-query", "--show", "wslmirror"); exitCode(err) != 1 {
		t.Errorf("dpkg still knows it: %s, %v", out, err)
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}
