package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
)

// inRuntimeDir mounts a small file system of the daemon's user for its runtime
// directory, in a mount namespace of the daemon's own, so that it can become full or
// read-only. Then it becomes the daemon.
func inRuntimeDir(dir string, daemon *exec.Cmd) *exec.Cmd {
	const mount = `mount -t tmpfs -o "size=64k,mode=755,uid=$1,gid=$1" wslmirror "$0" && shift && exec "$@"`
	args := []string{"--mount", "sh", "-c", mount, dir, strconv.Itoa(sandbox.User)}
	cmd := exec.Command("unshare", append(args, daemon.Args...)...)
	cmd.Env = daemon.Env
	return cmd
}

// inDir runs a command in the mount namespace of a daemon.
func (d *daemon) inDir(args ...string) error {
	if err := d.awaitStart(); err != nil {
		return err
	}
	cmd := exec.Command("nsenter", append([]string{"--mount", "--target", strconv.Itoa(d.proc.Process.Pid), "--"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// remount makes the runtime directory read-only or writable. It is busy while the
// daemon has a file open for writing, which is for a moment at each look.
func (d *daemon) remount(how string) (err error) {
	for deadline := time.Now().Add(lab.Scaled(30 * time.Second)); ; time.Sleep(5 * time.Millisecond) {
		err = d.inDir("mount", "-o", "remount,"+how, d.dir)
		if err == nil || !strings.Contains(err.Error(), "busy") || time.Now().After(deadline) {
			return err
		}
	}
}

// published is when a daemon has last published.
func (d *daemon) published() (at time.Time, err error) {
	// Its runtime directory is a file system of its own mount namespace.
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(d.proc.Process.Pid), "root", d.dir, "status.json"))
	if err != nil {
		return at, err
	}
	var s struct{ Updated time.Time } // by what is documented, as all is judged here
	err = json.Unmarshal(b, &s)
	return s.Updated, err
}

// publishes is how soon a daemon that can publish again has done so when it is
// woken: a few looks a second are left to it after a flood.
var publishes = lab.Scaled(5 * time.Second)

// current gives a daemon its runtime directory back, after which it publishes as
// ever.
func (w *world) current(d *daemon, repair func() error) error {
	if err := repair(); err != nil || d.stopped {
		return err
	}
	for began := time.Now(); ; {
		if err := w.nudge(); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
		at, err := d.published()
		if err == nil && at.After(began) {
			return nil
		}
		if time.Since(began) > publishes {
			return fmt.Errorf("status.json is of %v, %v after it could be written again: %v\n%s", at, publishes, err, d.log.tail())
		}
	}
}
