package packaging

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/status"
)

// A mistake in the settings stops the service until it is corrected. Every user is told
// what the mistake is and how to correct it.
func refusesOptions(t *testing.T, s service) {
	const settings = "/etc/default/wslmirror"
	const mistake = "run has no flag --pth (did you mean --path?)"
	cursor := len(s.journal())
	s.run("sed", "--in-place=.good", `s/^WSLMIRROR_OPTS=.*/WSLMIRROR_OPTS="--pth direct"/`, settings)
	if out, err := s.Run("systemctl", "restart", "wslmirror"); err == nil {
		t.Errorf("systemctl finds nothing wrong with it: %s", out)
	}
	time.Sleep(3 * time.Second) // longer than RestartSec=
	want := map[string]string{"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "78", "NRestarts": "0"}
	for property, want := range want {
		if got := s.show(property); got != want {
			t.Errorf("%s is %q, want %q", property, got, want)
		}
	}
	if n := len(s.journal()) - cursor; n > 20 {
		t.Errorf("%d new entries in the journal", n)
	}

	const reason = "the service has failed (exit status 78); its last log line is \"" + mistake + `"`
	for _, user := range []string{"user", "root"} {
		out, err := s.RunAs(user, "wslmirror", "status")
		if exitCode(err) != 3 || !strings.HasPrefix(strings.Join(strings.Fields(out), " "), "○ stopped: "+reason+" interface") {
			t.Errorf("status for %s: %v\n%s", user, err, out)
		}
		if !strings.Contains(out, settings) || !strings.Contains(out, "sudo systemctl restart wslmirror") || strings.Contains(out, "enable --now") {
			t.Errorf("status advises %s:\n%s", user, out)
		}
		c := serviceCheck(t, s, user)
		if c.Verdict != doctor.Fault || c.Seen != reason || !strings.Contains(c.Do, settings) || strings.Contains(c.Do, "enable --now") {
			t.Errorf("doctor for %s: %+v", user, c)
		}
	}
	if now := s.status(); now.State != status.Stopped || now.Reason != reason {
		t.Errorf("status --json: %+v", now)
	}
	if out, _ := s.Run("systemctl", "status", "wslmirror"); !strings.Contains(out, mistake) {
		t.Errorf("systemctl status does not say %q:\n%s", mistake, out)
	}

	// A crash is one line of the journal, for users who may read it.
	s.run("mv", settings+".good", settings)
	s.run("systemctl", "restart", "wslmirror")
	s.await(status.Active, 0)
	crashes(t, s)
	s.run("systemctl", "restart", "wslmirror")
	s.await(status.Active, 0)
	if c := serviceCheck(t, s, "user"); c.Verdict != doctor.OK {
		t.Errorf("doctor when it is corrected: %+v", c)
	}
	// Podman creates these when doctor asks for its version as a user who has not logged
	// in. The purge test looks for leftovers.
	s.run("sh", "-c", "rm -rf /tmp/containers-user-* /tmp/podman-run-*")
}

// crashes makes the daemon die like a Go program that panics, and systemd wait before it
// restarts the daemon.
func crashes(t *testing.T, s service) {
	const dir = "/run/systemd/system/wslmirror.service.d"
	s.run("sh", "-c", "mkdir -p "+dir+` && printf '[Service]\nRestartSec=1h\n' >`+dir+"/late.conf")
	s.run("systemctl", "daemon-reload")
	defer func() {
		s.run("rm", "-r", dir)
		s.run("systemctl", "daemon-reload")
	}()
	s.run("systemctl", "kill", "--kill-whom=main", "--signal=ABRT", "wslmirror")
	for deadline := time.Now().Add(patience); s.show("SubState") != "auto-restart"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it is %s", s.show("SubState"))
		}
	}
	out, err := s.RunAs("root", "wslmirror", "status")
	if exitCode(err) != 3 || !strings.Contains(strings.Join(strings.Fields(out), " "), "the service has failed and systemd is restarting it (") ||
		!strings.Contains(strings.Join(strings.Fields(out), " "), `its last log line is "SIGABRT: abort"`) || !strings.Contains(out, "wslmirror log") || strings.Contains(out, "enable --now") {
		t.Errorf("status after a crash: %v\n%s", err, out)
	}
}

// serviceCheck returns doctor's check of the service.
func serviceCheck(t *testing.T, s service, user string) doctor.Check {
	t.Helper()
	out, err := s.RunAs(user, "wslmirror", "doctor", "--json")
	var report doctor.Report
	if json.Unmarshal([]byte(out), &report) != nil {
		t.Fatalf("doctor prints %q, %v", out, err)
	}
	for _, c := range report.Checks {
		if c.Name == "service" {
			return c
		}
	}
	t.Fatalf("doctor has no check of the service: %s", out)
	return doctor.Check{}
}
