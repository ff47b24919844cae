package packaging

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// These tests check what the packages tell systemd: stand-ins for its programs record their
// calls. The tests that boot a distribution check what systemd does then.

// standIn answers like the helpers when the service is not enabled.
const standIn = `#!/bin/sh
echo "${0##*/} $*" >>/calls
case "$*" in *was-enabled*) exit 1 ;; esac
`

type step struct {
	what  string
	cmd   []string // the last argument is the package, or its name
	calls []string // the calls that change something
}

func TestDebLifecycle(t *testing.T) {
	need(t, "dpkg")
	tree := newTree(t)
	for _, dir := range []string{"info", "updates"} {
		mkdir(t, filepath.Join(tree, "var/lib/dpkg", dir))
	}
	write(t, filepath.Join(tree, "var/lib/dpkg/status"), `Package: systemd
Status: install ok installed
Maintainer: nobody <nobody@localhost>
Architecture: all
Version: 252
Description: stand-in
`, 0o644)
	dpkg := []string{"dpkg", "--force-not-root", "--root=" + tree}
	steps(t, tree, []step{
		{"install", append(dpkg, "--install", pkg(t, packages(t, dist), "deb")), []string{
			"deb-systemd-helper unmask wslmirror.service",
			"systemctl --system daemon-reload",
		}},
		{"upgrade", append(dpkg, "--install", pkg(t, packages(t, distHigher), "deb")), []string{
			"deb-systemd-helper unmask wslmirror.service",
			"systemctl --system daemon-reload",
			"deb-systemd-invoke try-restart wslmirror.service wslmirror-hold.service",
		}},
		{"remove", append(dpkg, "--remove", "wslmirror"), []string{
			"deb-systemd-invoke stop wslmirror.service wslmirror-hold.service",
			"systemctl --system daemon-reload",
		}},
		{"purge", append(dpkg, "--purge", "wslmirror"), []string{
			"deb-systemd-helper purge wslmirror.service",
		}},
	})
	if left := named(t, tree); len(left) > 0 {
		t.Errorf("after the purge there is still %q", left)
	}
}

func TestRPMLifecycle(t *testing.T) {
	need(t, "rpm", "go")
	tree := newTree(t)
	rpm := []string{"rpm", "--root=" + tree, "--dbpath=/var/lib/rpm"}

	run(t, rpm[0], append(rpm[1:], "--install", systemdRPM(t, tree))...)

	steps(t, tree, []step{
		{"install", append(rpm, "--install", pkg(t, packages(t, dist), "rpm")), []string{
			"systemctl --no-reload preset wslmirror.service",
		}},
		{"upgrade", append(rpm, "--upgrade", pkg(t, packages(t, distHigher), "rpm")), []string{
			"systemctl daemon-reload",
			"systemctl try-restart wslmirror.service wslmirror-hold.service",
		}},
		{"remove", append(rpm, "--erase", "wslmirror"), []string{
			"systemctl --no-reload disable --now wslmirror.service",
			"systemctl stop wslmirror-hold.service",
			"systemctl daemon-reload",
		}},
	})
	// The file that the user has changed is kept.
	if left := named(t, tree); !slices.Equal(left, []string{"etc/default/wslmirror.rpmsave"}) {
		t.Errorf("after the removal there is still %q", left)
	}
}

// systemdRPM builds a stand-in for the package's dependency, and returns its path.
func systemdRPM(t *testing.T, tree string) string {
	t.Helper()
	recipe, rpm := filepath.Join(tree, "systemd.yaml"), filepath.Join(tree, "systemd.rpm")
	write(t, recipe, "name: systemd\narch: all\nversion: 252.0.0\nprovides: [/bin/sh]\n", 0o644)
	run(t, "go", "tool", "-modfile=tools/go.mod", "nfpm", "package", "--packager", "rpm", "--config", recipe, "--target", rpm)
	return rpm
}

func TestArchLifecycle(t *testing.T) {
	need(t, "pacman", "zstd")
	tree := newTree(t)
	pacman := []string{"pacman", "--root=" + tree, "--dbpath=" + filepath.Join(tree, "var/lib/pacman"), "--cachedir=" + t.TempDir(),
		"--logfile=/dev/null", "--config=" + filepath.Join(tree, "etc/pacman.conf"), "--hookdir=" + t.TempDir(), "--noconfirm", "--noprogressbar"}
	mkdir(t, filepath.Join(tree, "var/lib/pacman"))
	write(t, filepath.Join(tree, "etc/pacman.conf"), "[options]\nArchitecture = auto\nSigLevel = Never\nLocalFileSigLevel = Never\n", 0o644)
	systemd := "--assume-installed=systemd=252"

	steps(t, tree, []step{
		{"install", append(pacman, systemd, "--upgrade", pkg(t, packages(t, dist), "pkg.tar.zst")), nil},
		{"upgrade", append(pacman, systemd, "--upgrade", pkg(t, packages(t, distHigher), "pkg.tar.zst")), []string{
			"systemctl daemon-reload",
			"systemctl try-restart wslmirror.service",
		}},
		{"remove", append(pacman, "--remove", "wslmirror"), []string{
			"systemctl --no-reload disable --now wslmirror.service",
		}},
	})
	// The file that the user has changed is kept.
	if left := named(t, tree); !slices.Equal(left, []string{"etc/default/wslmirror.pacsave"}) {
		t.Errorf("after the removal there is still %q", left)
	}
}

// steps runs the steps in order and compares the calls that each makes.
func steps(t *testing.T, tree string, steps []step) {
	t.Helper()
	settings := filepath.Join(tree, "etc/default/wslmirror")
	const mine = "WSLMIRROR_OPTS=\"--log-level debug\"\n"
	for _, s := range steps {
		os.Remove(filepath.Join(tree, "calls"))
		out := runEnv(t, []string{"LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}, s.cmd[0], s.cmd[1:]...)
		// rpm does not fail when a scriptlet fails.
		if strings.Contains(out, "scriptlet failed") || strings.Contains(out, "error:") {
			t.Errorf("%s says:\n%s", s.what, out)
		}
		// Only the first installation says what to do next, in one line.
		if n := strings.Count(out, "sudo systemctl enable --now wslmirror\n"); (n == 1) != (s.what == "install") || n > 1 {
			t.Errorf("%s says:\n%s", s.what, out)
		}
		if got := calls(t, tree); !slices.Equal(got, s.calls) {
			t.Errorf("%s calls\n\t%s\nwant\n\t%s", s.what, strings.Join(got, "\n\t"), strings.Join(s.calls, "\n\t"))
		}
		switch s.what {
		case "install":
			write(t, settings, mine, 0o644)
		case "upgrade":
			if b, err := os.ReadFile(settings); err != nil || string(b) != mine {
				t.Errorf("after the upgrade the settings are %q, %v", b, err)
			}
			if out := run(t, filepath.Join(tree, "usr/bin/wslmirror"), "version"); !strings.Contains(out, higher) {
				t.Errorf("after the upgrade the version is %q", out)
			}
		}
	}
}

// calls returns the calls that change something.
func calls(t *testing.T, tree string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(tree, "calls"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(string(b)), "\n"), func(call string) bool {
		return strings.Contains(call, "debian-installed") || strings.Contains(call, "was-enabled") ||
			strings.Contains(call, "update-state")
	})
}

// newTree creates the root of a system that contains a shell and our stand-ins.
func newTree(t *testing.T) string {
	t.Helper()
	needRoot(t) // scripts run in a chroot
	need(t, "busybox")
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	for _, dir := range []string{"usr/bin", "run/systemd/system", "dev", "var/lib/rpm", "etc", "tmp"} {
		mkdir(t, filepath.Join(tree, dir))
	}
	for _, dir := range []string{"bin", "sbin", "usr/sbin"} {
		if err := os.Symlink("/usr/bin", filepath.Join(tree, dir)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(tree, "usr/bin/sh"), string(busybox), 0o755)
	write(t, filepath.Join(tree, "usr/bin/bash"), string(busybox), 0o755)
	for _, name := range []string{"systemctl", "deb-systemd-helper", "deb-systemd-invoke"} {
		write(t, filepath.Join(tree, "usr/bin", name), standIn, 0o755)
	}
	return tree
}

// named lists the files in the tree whose names contain ours.
func named(t *testing.T, tree string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(d.Name(), "wslmirror") {
			found = append(found, path[len(tree)+1:])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}
