package field

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// engineNames are the command lines that are tried.
var engineNames = []string{"docker", "podman"}

// What an engine may take to do something, and to say which version it is.
var (
	engineTimeout  = lab.Scaled(time.Minute)
	versionTimeout = lab.Scaled(10 * time.Second)
)

const (
	imageName = "localhost/wslmirror-field:latest"
	// containerVerb is how this program is called in a container: with a name, and with
	// the seconds after which it ends.
	containerVerb = "field-container"
)

// errSlow says that an engine took too long.
var errSlow = errors.New("no answer in time")

// runEngine runs an engine's command line for at most timeout, and returns what it prints.
func runEngine(ctx context.Context, timeout time.Duration, stdin io.Reader, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.WaitDelay = stdin, time.Second
	// ^C is for this process, which then removes what was begun.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = errSlow
	}
	if err != nil {
		line, _, _ := strings.Cut(strings.TrimSpace(errs.String()), "\n")
		err = fmt.Errorf("%s %s: %w: %s", args[0], args[1], err, line)
	}
	return strings.TrimSpace(string(out)), err
}

// findEngine is an engine that may have containers of ours. NotChecked says why not.
// Without the program there is none.
func findEngine(ctx context.Context, name string) (e Engine, found bool) {
	if _, err := exec.LookPath(name); err != nil {
		return e, false
	}
	e.Name = name
	// Asking would make systemd start dockerd, with all containers that restart.
	if name == "docker" && isActive(ctx, "docker.socket") && !isActive(ctx, "docker.service") {
		e.NotChecked = "Docker is not running"
		return e, true
	}
	ask := func(args ...string) (string, error) {
		return runEngine(ctx, versionTimeout, nil, append([]string{name}, args...)...)
	}
	var err error
	if e.Version, err = ask("version", "--format", map[string]string{"docker": "{{.Server.Version}}", "podman": "{{.Client.Version}}"}[name]); err != nil {
		e.Version, e.NotChecked = "", err.Error()
		return e, true
	}
	if name == "docker" {
		if system, _ := ask("info", "--format", "{{.OperatingSystem}}"); strings.Contains(system, "Docker Desktop") {
			e.NotChecked = "this is Docker Desktop, whose engine has a network of its own"
		}
	}
	return e, true
}

// image is a container image that holds nothing but this program.
func image() (*bytes.Buffer, error) {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	out := new(bytes.Buffer)
	w := tar.NewWriter(out)
	err = w.WriteHeader(&tar.Header{Name: "mirrorlab", Mode: 0o755, Size: int64(len(program))})
	if err == nil {
		_, err = w.Write(program)
	}
	return out, errors.Join(err, w.Close())
}

// prefix is what the names of containers begin with.
const prefix = "wslmirror-field-"

// start starts two containers: one is published everywhere, and one on localhost. They
// end by themselves after some seconds. What it has begun is in e also if it fails.
//
// What an engine has begun it ends, also on ^C: what it would make afterwards could not be
// removed.
func (e *Engine) start(ctx context.Context, free *finder, seconds int) error {
	interrupted := ctx.Err
	ctx = context.WithoutCancel(ctx)
	tarball, err := image()
	if err != nil {
		return err
	}
	e.imported = true // as far as is known, also if there is no answer in time
	if _, err := runEngine(ctx, engineTimeout, tarball, e.Name, "import", "-", imageName); err != nil {
		e.imported = errors.Is(err, errSlow)
		return err
	}
	for _, on := range []struct {
		name string
		addr netip.Addr
	}{{"everywhere", netip.IPv4Unspecified()}, {"localhost", ruleset.Localhost}} {
		if err := interrupted(); err != nil {
			return err
		}
		port, err := free.bindable()
		if err != nil {
			return err
		}
		c := Container{Name: prefix + e.Name + "-" + on.name, On: on.addr, Port: port}
		e.Containers = append(e.Containers, c)
		publish := fmt.Sprintf("%s:%d:80", on.addr, port)
		_, err = runEngine(ctx, engineTimeout, nil, e.Name, "run", "--detach", "--rm", "--pull=never", "--name", c.Name,
			"--publish", publish, "--publish", publish+"/udp", imageName, "/mirrorlab", containerVerb, c.Name, strconv.Itoa(seconds))
		if err != nil {
			return err
		}
		out, err := runEngine(ctx, engineTimeout, nil, e.Name, "inspect", "--format",
			"{{.State.Pid}}{{range .NetworkSettings.Networks}} {{.IPAddress}} {{.Gateway}}{{end}}", c.Name)
		if err != nil {
			return err
		}
		f := strings.Fields(out)
		if len(f) < 3 {
			return fmt.Errorf("%s inspect printed %q", e.Name, out)
		}
		if c.pid, err = strconv.Atoi(f[0]); err == nil {
			c.Gateway, err = netip.ParseAddr(f[2])
		}
		if err != nil {
			return fmt.Errorf("%s inspect: %w", e.Name, err)
		}
		e.Containers[len(e.Containers)-1] = c
	}
	return nil
}

// remove removes the containers and the image.
func (e *Engine) remove(ctx context.Context) error {
	var errs []error
	for _, c := range e.Containers {
		_, err := runEngine(ctx, engineTimeout, nil, e.Name, "rm", "--force", c.Name)
		if err != nil && strings.Contains(strings.ToLower(err.Error()), "no such container") {
			err = nil // it never began
		}
		errs = append(errs, err)
	}
	if e.imported {
		_, err := runEngine(ctx, engineTimeout, nil, e.Name, "image", "rm", "--force", imageName)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
