package lab_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

func TestCachedBuildsOnce(t *testing.T) {
	cache := t.TempDir()
	var builds atomic.Int32
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			dir, err := lab.CachedIn(cache, "tree", func(dir string) error {
				builds.Add(1)
				return errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
			})
			if err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
}

// A build that failed, or was killed half-way, is not used and does not hinder
// the next.
func TestCachedBuildFails(t *testing.T) {
	cache := t.TempDir()
	failed := errors.New("no network")
	_, err := lab.CachedIn(cache, "tree", func(dir string) error {
		return errors.Join(os.Mkdir(dir, 0o755), failed)
	})
	if !errors.Is(err, failed) {
		t.Errorf("error %v, want %v", err, failed)
	}
	if err := os.MkdirAll(filepath.Join(cache, "tree.unfinished", "half"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := lab.CachedIn(cache, "tree", func(dir string) error { return os.Mkdir(dir, 0o755) })
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("the next build found %v, %v", entries, err)
	}
}

// What runs on the tree sees its own changes, and nobody else does.
func TestStartOnTreeKeepsTree(t *testing.T) {
	labtest.NeedTree(t)
	tree, err := lab.Tree()
	if err != nil {
		t.Fatal(err)
	}
	b := labtest.New(t, lab.Options{})
	p, err := lab.StartOnTree(b.WSL, labtest.Patience(), `
		rm -r usr/share/doc
		test ! -e usr/share/doc
		systemd-notify --ready
		exec sleep 60`)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := os.Stat(filepath.Join(tree, "usr/share/doc")); err != nil {
		t.Errorf("the tree has changed: %v", err)
	}
}

func TestStartOnTreeSaysWhatFailed(t *testing.T) {
	labtest.NeedTree(t)
	b := labtest.New(t, lab.Options{})
	_, err := lab.StartOnTree(b.WSL, labtest.Patience(), `ls no-such-file`)
	if err == nil || !strings.Contains(err.Error(), "no-such-file") {
		t.Errorf("error %v does not say what the script printed", err)
	}
}

// The cgroups of a process that was killed are removed by the next.
func TestNewCgroupRemovesStale(t *testing.T) {
	labtest.NeedRoot(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	stale := fmt.Sprintf("%s%d-1", lab.CgroupPrefix, dead.Process.Pid)
	mine := lab.NewCgroup()
	var dirs []string
	for _, name := range []string{stale, mine} {
		dir, err := lab.MakeCgroup2(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, "below"), 0o755); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	lab.NewCgroup()
	if _, err := os.Stat(dirs[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the stale cgroup is still there: %v", err)
	}
	if _, err := os.Stat(dirs[1]); err != nil {
		t.Errorf("the cgroup of a living process has gone: %v", err)
	}
	if err := lab.CloseCgroup(mine); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dirs[1]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the closed cgroup is still there: %v", err)
	}
}
