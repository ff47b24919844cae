package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// overlayScript starts as process 1 of new mount and process namespaces, with
// the Debian tree as its working directory, and leaves at /run/root a writable
// view of the tree. Writes go to memory. It all disappears with process 1,
// however that ends. /run is a good place for it because it exists everywhere,
// and because systemd-nspawn would leave files in the machine's own.
const overlayScript = `
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/root /run/upper /run/work
mount -t overlay -o lowerdir=.,upperdir=/run/upper,workdir=/run/work overlay /run/root
mount -t proc proc /proc
cd /run/root
export NOTIFY_SOCKET="$0"
`

// startOnTree runs a shell script in the host's network, over a private copy
// of the Debian tree, which is its working directory, and waits until the
// script or a program of it says that it is ready, as sd_notify(3) does. The
// script should end with exec, so that what it starts is process 1 of its
// namespace: when that ends, everything else there is killed, and it is killed
// when this process ends.
func (h *Host) startOnTree(timeout time.Duration, script string, args ...string) (*Process, error) {
	return h.startOn(bookworm, timeout, script, args...)
}

// startOn is startOnTree for any tree.
func (h *Host) startOn(t tree, timeout time.Duration, script string, args ...string) (*Process, error) {
	dir, err := t.dir()
	if err != nil {
		return nil, err
	}
	// A socket in the abstract namespace, which is the network's, with a name
	// that the kernel chooses: no file to remove.
	var notify *net.UnixConn
	err = h.Do(func() error {
		notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
		return err
	})
	if err != nil {
		return nil, err
	}
	defer notify.Close()
	output := &programOutput{}
	cmd := exec.Command("/bin/sh", append([]string{"-ec", overlayScript + script, notify.LocalAddr().String()}, args...)...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = output, output
	// Pdeathsig, which Host.Start adds, makes a process that finds that its
	// parent has gone already send itself the signal. In a new namespace it
	// always finds that, but there process 1 is deaf to its own SIGKILL.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	p, err := h.Start(cmd)
	if err != nil {
		return nil, err
	}
	if err := p.awaitReady(notify, timeout); err != nil {
		return nil, errors.Join(fmt.Errorf("%w; it printed:\n%s", err, output.tail()), p.Close())
	}
	return p, nil
}

// awaitReady waits for READY=1 on the program's notification socket.
func (p *Process) awaitReady(notify *net.UnixConn, timeout time.Duration) error {
	ready := make(chan error, 1)
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := notify.Read(b) // ends when the socket is closed
			if err != nil || bytes.Contains(b[:n], []byte("READY=1")) {
				ready <- err
				return
			}
		}
	}()
	select {
	case err := <-ready:
		return err
	case <-p.Done():
		return fmt.Errorf("it ended early: %v", p.Wait())
	case <-time.After(timeout):
		return fmt.Errorf("not ready after %v", timeout)
	}
}

// runIn runs a program inside what startOnTree started, to its end and for at
// most timeout, and returns what it printed on both its outputs. The caller
// says how to get inside: by attr, or by a program that enters. It starts from the
// host, so that a port tracker hears of what it binds.
func (h *Host) runIn(timeout time.Duration, attr *syscall.SysProcAttr, stdin io.Reader, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = attr
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	cmd.Stdin = stdin
	cmd.WaitDelay = time.Second // for a child that outlives it and holds its outputs
	var out []byte
	err := h.Do(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), err
}

// programOutput keeps what a program prints, for an error message.
type programOutput struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer.
func (o *programOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	return len(p), nil
}

func (o *programOutput) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text[max(0, len(o.text)-4096):])
}
