package labtest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"testing"
)

// Root is the folder of the repository, which is above the folder of each test.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod above the test's folder")
		}
	}
}

// Build builds a program of cmd as users get it, at path.
func Build(path, name string) error { return build(path, name) }

// BuildLikeTest builds a program of cmd as the tests were: with the race detector in it
// if they have it.
func BuildLikeTest(path, name string) error {
	if HasRaceDetector() {
		return build(path, name, "-race")
	}
	return build(path, name)
}

// HasRaceDetector reports whether the tests run with -race.
func HasRaceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

func build(path, name string, flags ...string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	if err := depend(root); err != nil {
		return err
	}
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), "./cmd/"+name)...)
	cmd.Dir = root
	cgo := "CGO_ENABLED=0"
	if len(flags) > 0 {
		cgo = "CGO_ENABLED=1" // the race detector needs it
	}
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build ./cmd/%s: %w: %s", name, err, out)
	}
	return os.Chmod(path, 0o755) // whatever the umask
}

// depend has the go command run the tests again, rather than repeat what they said last
// time, when a source of the program has changed: it notes the files that a test looks
// at, and nothing of what the go command below does.
func depend(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return filepath.SkipDir
		case filepath.Ext(path) == ".go" || d.Name() == "go.mod":
			_, err = os.Stat(path)
		}
		return err
	})
}

// Recorded is the path of a file that a package has in its folder testdata.
func Recorded(tb testing.TB, pkg, file string) string {
	tb.Helper()
	root, err := Root()
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(root, pkg, "testdata", file)
}
