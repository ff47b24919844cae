package repo

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// MAINTAINERS.md lists the placeholders that only the owner of the repository can fill
// in. Nothing else is left to fill in.
func TestPlaceholdersAreNamedInOnePlace(t *testing.T) {
	_, section, found := strings.Cut(read(t, "MAINTAINERS.md"), "\n## Only the owner can fill these in\n")
	var named []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(section, -1) {
		named = append(named, m[1])
	}
	if !found || len(named) == 0 {
		t.Fatal("MAINTAINERS.md names no placeholders")
	}
	var (
		unfilled = regexp.MustCompile(`\b(TODO|FIXME|TBD|CHANGEME|YOUR[-_]\w+)\b`)
		address  = regexp.MustCompile(`[\w.+-]+@[a-z-]+(?:\.[a-z-]+)+\b`) // not the version of a module
		project  = regexp.MustCompile(`github\.com/[\w-]+/wslmirror\b`)
		used     = map[string]bool{}
	)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "bin", "dist", "testdata"}, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(path, "_test.go") || filepath.Ext(path) == ".sum" || d.Name() == ".git" || d.Name() == "MAINTAINERS.md" {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, word := range unfilled.FindAllString(string(b), -1) {
			t.Errorf("%s has %q, which somebody must fill in", path, word)
		}
		for _, m := range slices.Concat(address.FindAllString(string(b), -1), project.FindAllString(string(b), -1)) {
			if used[m] = true; !slices.Contains(named, m) {
				t.Errorf("%s has %s, which MAINTAINERS.md does not name", path, m)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range named {
		if !used[name] {
			t.Errorf("MAINTAINERS.md names %s, which nothing has", name)
		}
	}
}
