package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupPrefix begins the names of the benches' cgroups, in every hierarchy of
// the machine. There is no parent for all of them, because nobody could say when
// to remove that.
const cgroupPrefix = "/wslmirror-lab-"

var cgroupCount atomic.Int64

// newCgroup names a cgroup for one engine or distribution. A cgroup is the one
// thing of a bench that does not end with its processes: killed, they leave
// empty folders, which the next newCgroup of any process removes.
func newCgroup() string {
	for _, root := range cgroupRoots() {
		found, _ := filepath.Glob(root + cgroupPrefix + "*") // fails only for a bad pattern
		for _, dir := range found {
			var pid int
			name := strings.TrimPrefix(dir, root+cgroupPrefix)
			if _, err := fmt.Sscanf(name, "%d-", &pid); err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
				_ = removeCgroups(dir)
			}
		}
	}
	return fmt.Sprintf("%s%d-%d", cgroupPrefix, os.Getpid(), cgroupCount.Add(1))
}

// makeCgroup2 makes a cgroup of newCgroup in the hierarchy of version 2 and
// returns its folder.
func makeCgroup2(name string) (string, error) {
	for _, root := range cgroupRoots() {
		if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil { // only version 2 has it
			return root + name, os.Mkdir(root+name, 0o755)
		}
	}
	return "", errors.New("this machine has no cgroups of version 2")
}

// closeCgroup removes a cgroup of newCgroup, whose processes have ended.
func closeCgroup(name string) error {
	var errs []error
	for _, root := range cgroupRoots() {
		errs = append(errs, removeCgroups(root+name))
	}
	return errors.Join(errs...)
}

// removeCgroups removes a cgroup and those below it. The files in a cgroup's
// folder are not removed, nor can be. A process that has just ended can keep
// its cgroup busy for a moment longer than its parent can wait for it.
func removeCgroups(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for i := len(dirs) - 1; err == nil && i >= 0; i-- {
		err = os.Remove(dirs[i])
		for deadline := time.Now().Add(Scaled(10 * time.Second)); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
			err = os.Remove(dirs[i])
		}
	}
	return err
}

// cgroupRoots returns where this machine has its cgroup hierarchies: one with
// version 2, about ten with version 1.
func cgroupRoots() []string {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil
	}
	var roots []string
	for line := range strings.Lines(string(mounts)) {
		// device, mount point, type, options, 0, 0
		f := strings.Fields(line)
		if len(f) > 2 && (f[2] == "cgroup" || f[2] == "cgroup2") {
			roots = append(roots, f[1])
		}
	}
	return roots
}
