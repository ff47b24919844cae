// Guest is process 1 of a virtual machine of package vm: it runs the jobs that its folder
// names, tells the console what came of each, and turns the machine off.
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
	// It complains of what is there already.
	_ = exec.Command("/bin/busybox", "--install", "-s", "/bin").Run()
	b, err := os.ReadFile(job.File)
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
