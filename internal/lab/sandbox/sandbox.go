// Package sandbox runs programs with the rights that systemd gives the service: a
// user without a name, one capability, the system calls and address families that the
// unit names. It knows nothing of the bench, nor of the unit but its text. The rest of
// the unit, about files and namespaces, is tested where systemd itself makes it, in the
// package packaging.
package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// User is a user, and a group, that owns nothing.
const User = 65534

// Unprivileged is a command that runs args as User, with no capability but those
// named, for example "net_admin". It is the same process all the way.
func Unprivileged(args []string, capabilities ...string) *exec.Cmd {
	caps := "-all"
	for _, c := range capabilities {
		caps += ",+" + c
	}
	return exec.Command("setpriv", append([]string{
		fmt.Sprintf("--reuid=%d", User), fmt.Sprintf("--regid=%d", User), "--clear-groups", "--no-new-privs",
		"--pdeathsig=keep", // which the kernel clears with the user
		"--bounding-set=" + caps, "--inh-caps=" + caps, "--ambient-caps=" + caps,
	}, args...)...)
}

// A Program is one that is run with the rights of the service.
type Program struct {
	// Path is a copy of the program that any user may run.
	Path string
	// Filter is what it may ask of the kernel, nil for all that its user may. The
	// program that sets it must call Enter.
	Filter *Filter
	// Capability is the one that it has.
	Capability string

	dir  string
	self string // a copy of this program, which enters the filter
}

// New makes a Program of the one at path: that may lie in a folder which only root may
// enter, and so may this one. Close removes what it makes.
func New(path string) (*Program, error) {
	dir, err := os.MkdirTemp("", "wslmirror-sandbox-")
	if err != nil {
		return nil, err
	}
	p := &Program{Path: filepath.Join(dir, "wslmirror"), dir: dir, self: filepath.Join(dir, "enter"), Capability: "net_admin"}
	err = errors.Join(os.Chmod(dir, 0o755), mayBeEntered(dir))
	if err == nil {
		err = errors.Join(install(path, p.Path), install("/proc/self/exe", p.self))
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// mayBeEntered returns an error if not any user may come to dir.
func mayBeEntered(dir string) error {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode()&0o001 == 0 {
			return fmt.Errorf("wslmirror runs as a user who may not enter %s: TMPDIR must name another folder, for example /tmp", dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// install copies a program.
func install(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Chmod(0o755), dst.Close()) // whatever the umask
}

// Close removes the copies, and the runtime directories.
func (p *Program) Close() error { return os.RemoveAll(p.dir) }

// Command is a command that runs the program. Its process is the program's.
func (p *Program) Command(args ...string) *exec.Cmd {
	args = append([]string{p.Path}, args...)
	if p.Filter == nil {
		cmd := Unprivileged(args, p.Capability)
		cmd.Env = os.Environ()
		return cmd
	}
	cmd := Unprivileged(append([]string{p.self}, args...), p.Capability)
	cmd.Env = append(os.Environ(), variable+"="+p.Filter.String())
	return cmd
}

// RuntimeDir makes a directory as systemd makes it for the service.
func (p *Program) RuntimeDir() (string, error) {
	dir, err := os.MkdirTemp(p.dir, "run-")
	if err != nil {
		return "", err
	}
	return dir, errors.Join(os.Chown(dir, User, User), os.Chmod(dir, 0o755))
}
