package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
)

const hint = `This shell is in WSL; 'exit' ends it and the bench. On 127.0.0.1 there are a
container (8080/tcp and 5353/udp), a Linux server (9000/tcp) and a Windows
server (9001/tcp), each of which answers with who it is. Try:

  curl localhost:8080                 a container, from Linux
  windows curl -m 1 localhost:8080    the same, from Windows: no answer
  wslmirror run &
  windows curl -m 1 localhost:8080    now it answers
  wslmirror status                    and this says why

`

func runShell(ctx context.Context, args []string, std stdio) (code int, err error) {
	flags := flag.NewFlagSet("shell", flag.ContinueOnError)
	mode := modeFlag(flags)
	if err := parse(flags, args); err != nil {
		return usageExit(err, std)
	}
	defer func() {
		if err != nil {
			code = exitFailure
		}
	}()
	dir, err := os.MkdirTemp("", "mirrorlab-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// The daemon becomes an ordinary user, and publishes there.
	if err := os.Chmod(dir, 0o755); err != nil {
		return 0, err
	}
	b, err := newBench(*mode)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	defer killAll(b.WSL, b.Windows) // what was left running

	if err := writeWindows(dir, b.Windows); err != nil {
		return 0, err
	}
	fmt.Fprint(std.err, hint)
	shell := exec.CommandContext(ctx, cmp.Or(os.Getenv("SHELL"), "/bin/sh"))
	shell.Stdin, shell.Stdout, shell.Stderr = std.in, std.out, std.err
	// Of several, the last PATH counts.
	shell.Env = append(os.Environ(), fmt.Sprintf("PATH=%s:%s:%s", dir, beside(""), os.Getenv("PATH")), "WSLMIRROR_RUNTIME_DIR="+filepath.Join(dir, "run"))
	p, err := b.WSL.Start(shell)
	if err != nil {
		return 0, err
	}
	err = p.Wait()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// writeWindows writes the command 'windows' to dir. It finds the namespace by
// our descriptor of it, because that has no name.
func writeWindows(dir string, windows *lab.Host) error {
	script := fmt.Sprintf("#!/bin/sh\nexec nsenter --net=/proc/%d/fd/%d -- \"$@\"\n", os.Getpid(), windows.NetNS())
	return os.WriteFile(filepath.Join(dir, "windows"), []byte(script), 0o755)
}

// killAll ends the programs in the hosts' networks, which a shell may have left
// in the background: they would hold the bench for ever.
func killAll(hosts ...*lab.Host) {
	networks := map[string]bool{}
	for _, h := range hosts {
		// As the links in /proc/PID/ns have it: net:[4026531840]
		if network, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", h.NetNS())); err == nil {
			networks[network] = true
		}
	}
	// Again and again, because one may start another meanwhile.
	for deadline := time.Now().Add(lab.Scaled(10 * time.Second)); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
		found := false
		for _, link := range links {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(link))))
			// This process is not meant, though its first thread may be there.
			if network, err := os.Readlink(link); err == nil && networks[network] && pid != os.Getpid() {
				found = true
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended by now
			}
		}
		if !found {
			return
		}
	}
}
