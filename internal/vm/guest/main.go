// Guest is process 1 of a virtual machine of package vm: it runs the jobs that its folder
// names, tells the console what came of each, and turns the machine off. If the machine
// has a disk, it boots the system there, and does the same as a service of that.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/vm/job"
)

func main() {
	if os.Getpid() != 1 { // where a system has booted from the disk: see switchRoot
		err := runJobs(job.Root + job.File)
		if err == nil {
			err = exec.Command("systemctl", "reboot").Run()
		}
		if err != nil {
			fmt.Println("guest:", err)
		}
		return
	}
	if err := run(); err != nil {
		fmt.Println("guest:", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // which ends QEMU: -no-reboot
}

func run() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"}, {"cgroup2", "/sys/fs/cgroup"}, {"devpts", "/dev/pts"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := os.Chmod("/tmp", 0o1777); err != nil {
		return err
	}
	signal.Ignore(unix.SIGHUP)
	for name, value := range map[string]string{"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "TERM": "dumb"} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	if exec.Command("modprobe", "virtio_blk").Run() == nil {
		if _, err := os.Stat(disk); err == nil {
			return switchRoot()
		}
	}
	// It complains of what is there already.
	_ = exec.Command("/bin/busybox", "--install", "-s", "/bin").Run()
	return runJobs(job.File)
}

// disk is the machine's disk, if it has one.
const disk = "/dev/vda"

// unit runs the jobs in the system that has booted from the disk.
const unit = `[Unit]
After=multi-user.target
[Service]
Type=exec
ExecStart=` + job.Root + `/init
Environment=HOME=/root
StandardOutput=file:/dev/ttyS0
StandardError=inherit
`

// switchRoot boots the system on the disk. It sees nothing of ours but the modules of
// its kernel, and job.Root. It only returns if it fails.
func switchRoot() error {
	const root, units = "/root", "/root/run/systemd/system"
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(disk, root, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", disk, err)
	}
	if err := unix.Mount("tmpfs", root+"/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for from, to := range map[string]string{"/": job.Root, "/lib/modules": "/lib/modules"} {
		if err := os.MkdirAll(root+to, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(from, root+to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", to, err)
		}
	}
	if err := os.MkdirAll(units+"/default.target.wants", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(units+"/jobs.service", []byte(unit), 0o644); err != nil {
		return err
	}
	if err := os.Symlink("../jobs.service", units+"/default.target.wants/jobs.service"); err != nil {
		return err
	}
	// The system may have no modprobe, as in WSL, where the kernel runs that of the VM.
	if err := os.WriteFile("/modprobe", []byte("#!/bin/sh\nexec chroot "+job.Root+" modprobe \"$@\"\n"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte(job.Root+"/modprobe"), 0); err != nil {
		return err
	}
	for _, at := range []string{"/proc", "/sys", "/dev"} {
		if err := unix.Mount(at, root+at, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", at, err)
		}
	}
	// As switch_root(8) does, but that the files stay.
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Exec("/sbin/init", []string{"/sbin/init"}, os.Environ())
}

// runJobs runs the jobs that a file names.
func runJobs(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var jobs []job.Job
	if err := json.Unmarshal(b, &jobs); err != nil {
		return err
	}
	for _, j := range jobs {
		fmt.Println(job.Begin + j.Name)
		began := time.Now()
		cmd := exec.Command(j.Args[0], j.Args[1:]...)
		console := struct{ io.Writer }{os.Stdout} // a pipe, so that nobody takes it for a terminal
		cmd.Dir, cmd.Stdout, cmd.Stderr = j.Dir, console, console
		cmd.WaitDelay = time.Second // for what a job has left running
		cmd.Env = append(os.Environ(), j.Env...)
		exit := 0
		if err := cmd.Run(); err != nil {
			if exit = cmd.ProcessState.ExitCode(); exit <= 0 {
				fmt.Println("guest:", err)
				exit = 255
			}
		}
		fmt.Printf("\n%s%d %d\n", job.End, exit, time.Since(began).Milliseconds())
	}
	return nil
}
