package field

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/status"
)

// daemonTimeout is how long wslmirror, or systemd, may take to start or to stop.
var daemonTimeout = lab.Scaled(15 * time.Second)

// A daemon is a wslmirror of ours.
type daemon struct {
	dir    string // where it publishes its state
	cmd    *exec.Cmd
	output bytes.Buffer // complete when done is closed
	done   chan struct{}
	err    error
}

// startDaemon returns when wslmirror says that it is active. What it leaves in dir is the
// caller's to remove.
func startDaemon(ctx context.Context, program, dir string, args ...string) (*daemon, error) {
	d := &daemon{dir: dir, done: make(chan struct{})}
	d.cmd = exec.Command(program, append([]string{"run", "--user", "root", "--runtime-dir", dir}, args...)...)
	d.cmd.Stdout, d.cmd.Stderr = &d.output, &d.output
	// It undoes all when this process is killed, and not by ^C, which is for this
	// process. As another user it would lose that signal.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	started := make(chan error, 1)
	go func() {
		defer close(d.done)
		runtime.LockOSThread() // Pdeathsig is sent when the thread ends
		defer runtime.UnlockOSThread()
		err := d.cmd.Start()
		if started <- err; err == nil {
			d.err = d.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(daemonTimeout); ; {
		_ = status.Refresh(dir) // what it says is read in any case
		if s, err := status.Read(dir); err == nil && s.State == status.Active {
			return d, nil
		}
		err := ctx.Err()
		if time.Now().After(deadline) {
			err = errors.New("it does not become active")
		}
		select {
		case <-d.done:
			return nil, fmt.Errorf("wslmirror ended: %v: %s", d.err, lastWords(d.output.String()))
		case <-time.After(20 * time.Millisecond):
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("start wslmirror: %w", err), d.stop())
		}
	}
}

// stop ends wslmirror as systemd does.
func (d *daemon) stop() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-d.done:
	case <-time.After(daemonTimeout):
		_ = d.cmd.Process.Kill()
		return errors.New("wslmirror does not stop: run \"wslmirror cleanup\"")
	}
	if d.err != nil {
		return fmt.Errorf("wslmirror ended: %w: %s", d.err, lastWords(d.output.String()))
	}
	return nil
}

// lastWords is the last line.
func lastWords(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return lines[len(lines)-1]
}

// serviceName is the unit of the package.
const serviceName = "wslmirror.service"

// serviceRuns reports whether systemd runs wslmirror.
func serviceRuns(ctx context.Context) bool { return isActive(ctx, serviceName) }

func isActive(ctx context.Context, unit string) bool {
	return systemctl(ctx, "is-active", "--quiet", unit) == nil
}

func systemctl(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, lastWords(string(out)))
	}
	return nil
}

// runtimeDir makes a folder for a daemon, beside which there may be the service's.
func runtimeDir() (string, error) { return os.MkdirTemp("", "wslmirror-field-") }
