// Package vm boots other kernels than the machine's own, and runs programs on them: in
// QEMU, without KVM, with everything in an initramfs. The kernels are Debian's, or built
// from Debian's sources with a configuration of this package. It needs the Debian packages
// qemu-system-x86 and kmod, and those that make vm installs to build a kernel. It knows
// nothing of what runs there.
package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/vm/job"
)

// A Machine is what is to be booted.
type Machine struct {
	Kernel Kernel
	// Without are modules that the machine does not have, as nft_ct.
	Without []string
	// Root is its file system.
	Root *Tree
	// Disk, if it is not empty, is an image of a disk (see NewDisk) with a system that has
	// systemd. That boots then, with Root at job.Root; the jobs run when it has started,
	// and then it reboots, which ends the machine. The image keeps what is written.
	Disk string
	Jobs []job.Job
	// Console, if it is not nil, is shown what the machine prints.
	Console io.Writer
}

// A Result is what came of a job.
type Result struct {
	Name   string
	Output string
	// Exit is its exit code, -1 if it has not ended.
	Exit int
	Took time.Duration
}

// startTimeout is how long a machine may take to its first job. That takes ten seconds
// where nothing else runs.
const startTimeout = 2 * time.Minute

// systemd, where there is one, leaves the console to the jobs. The Debian tree of the bench
// has no kmod, without which one unit would fail.
const systemd = "systemd.show_status=false systemd.mask=serial-getty@ttyS0.service systemd.mask=kmod-static-nodes.service"

// Boot boots a machine, and returns the results of its jobs when it has turned itself
// off. The error says what the console showed last. Where this machine is very busy, the
// kernel may hang before it has begun, since its timer is late; so there is a second try.
func (m Machine) Boot(ctx context.Context) ([]Result, error) {
	results, err := m.boot(ctx)
	if err != nil && len(results) == 0 && ctx.Err() == nil {
		results, err = m.boot(ctx)
	}
	return results, err
}

func (m Machine) boot(ctx context.Context) ([]Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timeout := startTimeout
	if m.Disk != "" {
		timeout *= 5
	}
	start := time.AfterFunc(timeout, cancel)
	defer start.Stop()
	dir, err := os.MkdirTemp("", "wslmirror-vm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	jobs, err := json.Marshal(m.Jobs)
	if err != nil {
		return nil, err
	}
	root := m.Root.clone()
	root.Write(job.File, 0o644, jobs)
	modules, memory := folders, "1536"
	if m.Disk != "" { // a system asks for more
		modules, memory = []string{"/"}, "3072"
	}
	if err := m.Kernel.addModules(root, modules, m.Without); err != nil {
		return nil, err
	}
	initrd := filepath.Join(dir, "initrd")
	if err := root.save(initrd); err != nil {
		return nil, err
	}
	// One processor: with several, QEMU's emulation has crashed while the kernel patched
	// its own code. no_timer_check: on a busy machine the timer is too late for the check,
	// and the kernel panics.
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "1", "-m", memory,
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", m.Kernel.image, "-initrd", initrd,
		"-append", "console=ttyS0 loglevel=1 reboot=t panic=-1 rdinit=/init mitigations=off no_timer_check "+systemd)
	if m.Disk != "" {
		cmd.Args = append(cmd.Args, "-drive", "file="+m.Disk+",format=raw,if=virtio,cache=unsafe")
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Kill() }
	var console bytes.Buffer
	begun := writer(func(p []byte) (int, error) {
		if bytes.Contains(console.Bytes(), []byte(job.Begin)) {
			start.Stop()
		}
		return len(p), nil
	})
	cmd.Stdout = io.MultiWriter(&console, begun)
	if m.Console != nil {
		cmd.Stdout = io.MultiWriter(cmd.Stdout, m.Console)
	}
	cmd.Stderr = cmd.Stdout
	err = onThread(cmd.Run)
	out := console.Bytes()
	results := read(out)
	if err == nil && (len(results) < len(m.Jobs) || results[len(results)-1].Exit < 0) {
		err = fmt.Errorf("it ended before its jobs")
	}
	if err != nil {
		return results, fmt.Errorf("boot %s: %w: ...%s", m.Kernel.Name, err, out[max(0, len(out)-2000):])
	}
	return results, nil
}

// A writer is a function that is an io.Writer.
type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// read finds the results on a console.
func read(console []byte) (results []Result) {
	var output strings.Builder
	inside := false
	lines := bufio.NewScanner(bytes.NewReader(console))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		line := strings.TrimSuffix(lines.Text(), "\r")
		name, begins := strings.CutPrefix(line, job.Begin)
		end, ends := strings.CutPrefix(line, job.End)
		switch {
		case begins:
			results = append(results, Result{Name: name, Exit: -1})
			inside = true
			output.Reset()
		case ends && inside:
			r := &results[len(results)-1]
			var ms int64
			fmt.Sscanf(end, "%d %d", &r.Exit, &ms)
			r.Took = time.Duration(ms) * time.Millisecond
			inside = false
		case inside:
			output.WriteString(line + "\n")
		}
		if len(results) > 0 {
			results[len(results)-1].Output = strings.TrimSpace(output.String())
		}
	}
	return results
}
