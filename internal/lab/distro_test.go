package lab_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// Two distributions of one VM have one network, and nothing else in common.
func TestDistros(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	one, two := labtest.Boot(t, b, "one"), labtest.Boot(t, b, "two")
	prints := func(out string, err error) func(want string) {
		return func(want string) {
			t.Helper()
			if err != nil || strings.TrimSpace(out) != want {
				t.Errorf("got %q, error %v; want %q", out, err, want)
			}
		}
	}
	for _, d := range []*lab.Distro{one, two} {
		prints(d.Run("systemctl", "is-system-running"))("running")
		prints(d.Run("hostname"))(d.Name)
		prints(d.RunAs("user", "id", "--user", "--name"))("user")
		prints(d.Run("cat", "/sys/class/net/loopback0/operstate"))("up")
		// The engines set sysctls of the network.
		prints(d.Run("sysctl", "--write", "net.ipv4.ip_forward=1"))("net.ipv4.ip_forward = 1")
	}

	program := filepath.Join(t.TempDir(), "hello")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho hello\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := one.CopyIn(program, "/opt/lab/hello"); err != nil {
		t.Fatal(err)
	}
	prints(one.RunAs("user", "/opt/lab/hello"))("hello")
	if out, err := two.Run("/opt/lab/hello"); err == nil {
		t.Errorf("the other distribution has the file, too: %s", out)
	}

	if err := one.PowerOff(); err != nil {
		t.Error(err)
	}
	if out, err := one.Run("true"); err == nil {
		t.Errorf("runs after power off: %s", out)
	}
	prints(two.Run("systemctl", "is-system-running"))("running")
	if err := two.Close(); err != nil {
		t.Error(err)
	}
}

// A distribution runs its own Docker, as users have it.
func TestDistroDocker(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	d := labtest.Boot(t, b, "debian")
	docker, err := d.StartDocker()
	if err != nil {
		t.Fatal(err)
	}
	labtest.RunContainer(t, docker, "web", "8080:80")
	if answer, err := b.LAN.Ask("tcp", "192.0.2.2:8080", patience); err != nil || answer != "web" {
		t.Errorf("LAN to the container: answer %q, error %v", answer, err)
	}
	if err := docker.Close(); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// The error of a command says what it printed, and has its exit code.
func TestDistroRunFails(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	d := labtest.Boot(t, b, "debian")
	_, err := d.Run("sh", "-c", "echo what happened >&2; exit 7")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(err.Error(), "what happened") {
		t.Errorf("error %v", err)
	}
}
