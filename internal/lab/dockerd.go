package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
)

// dockerTimeout bounds everything that dockerd is asked to do. It does each
// within a second on a machine that has nothing else to do.
var dockerTimeout = Scaled(time.Minute)

// dockerScript starts Docker's daemon on the tree. /sys is the machine's, not a
// new mount, because that would hide the cgroups. Its security folder goes, so
// that dockerd does not load its AppArmor profile into the machine's kernel.
// The data lies on tmpfs because an overlay cannot lie on an overlay.
// docker-init is process 1 because dockerd does not reap orphans. A service of a swarm
// would first look for its image elsewhere.
const dockerScript = `
mount --rbind /sys sys
umount sys/kernel/security 2>/dev/null || true
mount --rbind /dev dev
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p var/lib/docker
mount -t tmpfs -o mode=755 tmpfs var/lib/docker
export DOCKER_SERVICE_PREFER_OFFLINE_IMAGE=1
exec chroot . docker-init -- dockerd --storage-driver overlay2 \
	--exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "$@"
`

const imageName = "echo"

// Docker is a real Docker daemon in a host's network: Debian's 20.10, or a current
// one (see StartMoby).
type Docker struct {
	host *Host
	// docker runs Docker's command line where the daemon is.
	docker func(stdin io.Reader, args ...string) (string, error)
	root   string // the daemon's root, as a folder of this machine
	stop   func() error
}

// A Container is a running container of [Docker.Run].
type Container struct {
	Name string
	// Addr is its own address, on the bridge, and Gateway the bridge's.
	Addr, Gateway netip.Addr
}

// StartDocker starts dockerd in the host's network, with flags as dockerd has
// them, for example "--userland-proxy=false", and waits until it serves. It
// keeps all its files in memory; it, its containers and their networks end with
// this process, however that ends.
func (h *Host) StartDocker(flags ...string) (*Docker, error) {
	return h.startDocker(dockerScript, flags...)
}

// startDocker runs a script that ends as dockerScript does. Its arguments are
// the name of a cgroup and then args.
func (h *Host) startDocker(script string, args ...string) (*Docker, error) {
	cgroup := newCgroup()
	p, err := h.startOnTree(dockerTimeout, script, append([]string{cgroup}, args...)...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start dockerd: %w", err), closeCgroup(cgroup))
	}
	root := fmt.Sprintf("/proc/%d/root", p.Cmd.Process.Pid)
	return newDocker(&Docker{
		host: h,
		docker: func(stdin io.Reader, args ...string) (string, error) {
			return h.runIn(dockerTimeout, &syscall.SysProcAttr{Chroot: root}, stdin, "/usr/bin/docker", args...)
		},
		root: root,
		stop: func() error { return errors.Join(p.Close(), closeCgroup(cgroup)) },
	})
}

// newDocker gives a daemon that serves its one image, which holds the echo server.
func newDocker(d *Docker) (*Docker, error) {
	d.host.keep(d)
	image, err := echoImage()
	if err == nil {
		_, err = d.docker(bytes.NewReader(image), "import", "-", imageName)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// CLI runs Docker's own command line, for example CLI("ps", "--all"), and
// returns what it printed.
func (d *Docker) CLI(args ...string) (string, error) { return d.docker(nil, args...) }

// Run starts a container that answers with its name on TCP and UDP port 80,
// and waits until it does so on its own address. It is published as Docker's
// option --publish says, for example "8080:80" or "127.0.0.1:8080:80/udp".
func (d *Docker) Run(name string, publish ...string) (*Container, error) {
	var options []string
	for _, p := range publish {
		options = append(options, "--publish", p)
	}
	return d.RunWith(name, options...)
}

// RunWith is Run with options as either command line has them.
func (d *Docker) RunWith(name string, options ...string) (*Container, error) {
	args := []string{"run", "--detach", "--name", name, "--sysctl", "net.ipv4.tcp_congestion_control=" + congestionControl}
	args = append(args, options...)
	if _, err := d.CLI(append(args, imageName, "/echo", "-name", name, "-addr", ":80")...); err != nil {
		return nil, err
	}
	out, err := d.CLI("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}{{end}}", name)
	if err != nil {
		return nil, err
	}
	c := &Container{Name: name}
	addr, gateway, _ := strings.Cut(strings.TrimSpace(out), " ")
	if c.Addr, err = netip.ParseAddr(addr); err == nil {
		c.Gateway, err = netip.ParseAddr(gateway)
	}
	if err != nil {
		return nil, fmt.Errorf("addresses of container %s: %w", name, err)
	}
	return c, d.host.Await(c)
}

// Await waits until a container answers on its own address. That takes its
// program a moment, and its port of the bridge as well.
func (h *Host) Await(c *Container) error {
	addr := netip.AddrPortFrom(c.Addr, 80).String()
	for deadline := time.Now().Add(dockerTimeout); ; {
		answer, err := h.Ask("tcp", addr, 100*time.Millisecond)
		if err == nil && answer == c.Name {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("container %s does not answer on %s: %q, %w", c.Name, addr, answer, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Enter returns a container as a host, for clients in it, and the names in its
// /etc/hosts. The host ends with the engine's.
func (d *Docker) Enter(c *Container) (*Host, map[string]netip.Addr, error) {
	pid, err := d.CLI("inspect", "--format", "{{.State.Pid}}", c.Name)
	if err != nil {
		return nil, nil, err
	}
	proc := filepath.Join(d.root, "proc", strings.TrimSpace(pid))
	hosts, err := os.ReadFile(filepath.Join(proc, "root/etc/hosts"))
	if err != nil {
		return nil, nil, fmt.Errorf("names in container %s: %w", c.Name, err)
	}
	ns, err := netns.GetFromPath(filepath.Join(proc, "ns/net"))
	if err != nil {
		return nil, nil, fmt.Errorf("enter container %s: %w", c.Name, err)
	}
	h, err := hostAt(c.Name, ns)
	if err != nil {
		return nil, nil, err
	}
	h.beforeDial = d.host.beforeDial
	d.host.keep(h)
	names := map[string]netip.Addr{}
	for line := range strings.Lines(string(hosts)) {
		fields := strings.Fields(line)
		for i, name := range fields {
			if addr, err := netip.ParseAddr(fields[0]); i > 0 && err == nil {
				names[name] = addr
			}
		}
	}
	return h, names, nil
}

// Remove ends a container and forgets it.
func (d *Docker) Remove(name string) error {
	_, err := d.CLI("rm", "--force", name)
	return err
}

// Close ends dockerd and its containers. Its rules and its bridge stay, as they
// do wherever dockerd ends.
func (d *Docker) Close() error {
	d.host.forget(d)
	return d.stop()
}
