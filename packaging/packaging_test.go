// Package packaging tests the packages as they are shipped: it builds them with build.sh
// and uses nothing else.
package packaging

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// higher is the version of the packages that the tests upgrade to.
const higher = "0.999.0"

var (
	temp string // for packages that several tests share

	// dist and distHigher return the directory of the packages, which are built once.
	dist       = sync.OnceValues(func() (string, error) { return build("..", "dist") })
	distHigher = sync.OnceValues(func() (string, error) { return build("..", "higher", "VERSION="+higher) })
)

func TestMain(m *testing.M) {
	var err error
	if temp, err = os.MkdirTemp("", "wslmirror-packaging-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(temp)
	os.Exit(code)
}

// build builds the packages from the source in root.
func build(root, name string, env ...string) (string, error) {
	dir := filepath.Join(temp, name)
	cmd := exec.Command(filepath.Join(root, "packaging", "build.sh"), dir)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build.sh: %w\n%s", err, out)
	}
	return dir, nil
}

// packages returns the directory that get has built.
func packages(t testing.TB, get func() (string, error)) string {
	t.Helper()
	if testing.Short() {
		unable(t, "building takes long where Go's cache is cold")
	}
	dir, err := get()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// pkg returns the only package in dir for this machine in the format deb, rpm or
// pkg.tar.zst.
func pkg(t testing.TB, dir, format string) string {
	t.Helper()
	arch := runtime.GOARCH
	if format != "deb" {
		arch = machines[arch]
	}
	found, err := filepath.Glob(filepath.Join(dir, "*"+arch+"."+format))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages %s for %s: %q, %v", format, arch, found, err)
	}
	return found[0]
}

// need skips the test if a program is missing on a developer's machine, and fails it where
// CI is set.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			unable(t, "%s is not installed", p)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		unable(t, "not root")
	}
}

// unable skips the test with a reason, and fails it where CI is set.
func unable(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// run runs a program and returns its standard output and standard error. It fails the test
// if the program fails.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	return runEnv(t, nil, name, args...)
}

func runEnv(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// release returns the version and the release of the changelog's first entry.
func release(t *testing.T) (version, release string) {
	t.Helper()
	b, err := os.ReadFile("changelog.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^- semver: (\d+\.\d+\.\d+)-(\d+)$`).FindSubmatch(b)
	if m == nil {
		t.Fatal("changelog.yaml has no entry")
	}
	return string(m[1]), string(m[2])
}

// Two builds give the same bytes, even from copies of the source, at another time and in
// another environment.
func TestReproducible(t *testing.T) {
	first := packages(t, dist)

	source := t.TempDir()
	copySource(t, source)
	second, err := build(source, "again", "SOURCE_DATE_EPOCH=1", "TZ=Asia/Tokyo",
		"LC_ALL=de_DE.UTF-8", "GOAMD64=v3", "GOFLAGS=-buildvcs=false")
	if err != nil {
		t.Fatal(err)
	}

	entries, err := os.ReadDir(first)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !sameFile(t, filepath.Join(first, e.Name()), filepath.Join(second, e.Name())) {
			t.Errorf("%s differs between two builds", e.Name())
		}
	}
	again, err := os.ReadDir(second)
	if err != nil || len(again) != len(entries) {
		t.Errorf("one build has %d files, the other %d, %v", len(entries), len(again), err)
	}
}

func sameFile(t *testing.T, one, other string) bool {
	t.Helper()
	a, err := os.ReadFile(one)
	b, err2 := os.ReadFile(other)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(a, b)
}

// copySource copies the files of a checkout to dir, with other times and modes.
func copySource(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, path[len(".."):])
		switch {
		case d.Name() == ".git" && !d.IsDir():
			return nil // in a worktree it is a file, and SkipDir would skip its siblings
		case d.Name() == ".git" || d.Name() == "dist":
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(to, 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, b, 0o700); err != nil {
			return err
		}
		long := time.Now().AddDate(-1, 0, 0)
		return os.Chtimes(to, long, long)
	})
	if err != nil {
		t.Fatal(err)
	}
}
