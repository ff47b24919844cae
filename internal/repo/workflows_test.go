package repo

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Nobody can run the workflows before they are on GitHub. So each step is a command of
// the Makefile, which runs anywhere, or one of a few others.
func TestWorkflowsRunTheMakefile(t *testing.T) {
	makefile := read(t, "Makefile")
	makeCommand := regexp.MustCompile(`^(?:sudo env "PATH=\$PATH" CI=true )?make (?:--silent )?([a-z]+)(?: >\S+)?$`)
	others := regexp.MustCompile(`^(apt-get update && apt-get install |gh release create )`)
	files, err := filepath.Glob(filepath.Join(root, ".github/workflows/*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("workflows: %q, %v", files, err)
	}
	for _, file := range files {
		text := read(t, strings.TrimPrefix(file, root))
		steps := regexp.MustCompile(`(?m)^ *(?:- )?run: (.*)$`).FindAllStringSubmatch(text, -1)
		if len(steps) == 0 {
			t.Errorf("%s runs nothing", file)
		}
		for _, step := range steps {
			m := makeCommand.FindStringSubmatch(step[1])
			switch {
			case m == nil && !others.MatchString(step[1]):
				t.Errorf("%s: %q is no command of the Makefile", file, step[1])
			case m != nil && !strings.Contains(makefile, "\n"+m[1]+":"):
				t.Errorf("%s: the Makefile has no %s", file, m[1])
			}
		}
	}
}

// The workflows use the Go version that go.mod requires, or a later patch of it.
func TestWorkflowsUseTheGoOfGoMod(t *testing.T) {
	m := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))
	if m == nil {
		t.Fatal("go.mod names no version of Go")
	}
	for _, name := range []string{"ci.yml", "release.yml"} {
		text := read(t, ".github/workflows/"+name)
		setups, right := strings.Count(text, "actions/setup-go@"), strings.Count(text, "go-version: "+m[1]+".x}")
		if setups == 0 || setups != right {
			t.Errorf("%s sets up Go %d times, %d times %s", name, setups, right, m[1])
		}
	}
}

// The release notes are the changelog section of the version. Only a tag that matches
// the version in the source gets notes.
func TestReleaseNotes(t *testing.T) {
	m := regexp.MustCompile(`(?m)^- semver: ([\d.]+)-`).FindStringSubmatch(read(t, "packaging/changelog.yaml"))
	if m == nil {
		t.Fatal("changelog.yaml has no version")
	}
	notes := func(tag string) (string, error) {
		cmd := exec.Command("make", "--silent", "notes")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "TAG="+tag)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := notes("v" + m[1])
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, section, found := strings.Cut(read(t, "CHANGELOG.md"), "\n## "+m[1]+"\n")
	if section, _, _ = strings.Cut(section, "\n## "); !found || strings.TrimSpace(section) != strings.TrimSpace(out) {
		t.Errorf("the notes are:\n%s\nCHANGELOG.md has:\n%s", out, section)
	}
	for _, tag := range []string{"", "v9.9.9", m[1], "$(echo v" + m[1] + ")"} {
		if out, err := notes(tag); err == nil {
			t.Errorf("a release of the tag %q has the notes:\n%s", tag, out)
		}
	}
}
