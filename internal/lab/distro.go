package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// distroTimeout bounds a boot and every command. A boot takes half a second on
// a machine that has nothing else to do.
var distroTimeout = Scaled(2 * time.Minute)

// distroScript boots the tree with systemd as process 1, in the network of its
// caller. It runs in a cgroup of its own, because systemd-nspawn, told to keep
// it, makes others at fixed names there. The system calls and the tmpfs are for
// Docker: runc needs the calls, and an overlay cannot lie on an overlay.
const distroScript = `
echo 0 >"$1/cgroup.procs"
echo "$2" >etc/hostname
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
exec systemd-nspawn --directory=/run/root --machine="$2" --boot --notify-ready=yes \
	--register=no --keep-unit --network-namespace-path=/proc/self/ns/net --capability=CAP_NET_ADMIN \
	--console=pipe --link-journal=no --resolv-conf=off --timezone=off \
	--system-call-filter="add_key bpf keyctl" --tmpfs=/var/lib/docker
`

// A Distro is a distribution of the WSL machine: the Debian tree, booted by
// systemd, with processes and files of its own, in the network of its host. All
// of it is in memory and ends with this process, however that ends.
type Distro struct {
	Name string

	host   *Host
	proc   *Process // systemd-nspawn
	leader int      // process 1 of the distribution, as seen from here
	cgroup string
}

// Boot boots a distribution in the host's network and waits until systemd has
// started everything. It wants the Debian package systemd-container.
func (h *Host) Boot(name string) (*Distro, error) { return h.bootOn(bookworm, name) }

// bootOn is Boot for any tree that has systemd as process 1.
func (h *Host) bootOn(t tree, name string) (*Distro, error) {
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		return nil, fmt.Errorf("boot %s: %w: apt-get install systemd-container", name, err)
	}
	d := &Distro{Name: name, host: h, cgroup: newCgroup()}
	if err := d.boot(t); err != nil {
		return nil, fmt.Errorf("boot %s: %w", name, err)
	}
	return d, nil
}

func (d *Distro) boot(t tree) error {
	dir, err := makeCgroup2(d.cgroup)
	if err != nil {
		return err
	}
	if d.proc, err = d.host.startOn(t, distroTimeout, distroScript, dir, d.Name); err != nil {
		return errors.Join(err, closeCgroup(d.cgroup))
	}
	d.host.keep(d)
	if err := d.findLeader(); err != nil {
		return errors.Join(err, d.Close())
	}
	// "degraded" if a unit has failed.
	if state, err := d.Run("systemctl", "is-system-running", "--wait"); err != nil {
		failed, _ := d.Run("systemctl", "--failed", "--no-legend", "--plain")
		return errors.Join(fmt.Errorf("it is %s: %s", strings.TrimSpace(state), failed), d.Close())
	}
	return nil
}

// findLeader looks for process 1 of the distribution: systemd-nspawn's only child.
func (d *Distro) findLeader() error {
	pid := d.proc.Cmd.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return err
	}
	d.leader, err = strconv.Atoi(strings.TrimSpace(string(children)))
	return err
}

// Run runs a program as root in the distribution to its end, and returns what
// it printed on both its outputs.
func (d *Distro) Run(args ...string) (string, error) { return d.run(nil, args...) }

// RunAs is Run as another user. The tree has one of the name "user".
func (d *Distro) RunAs(user string, args ...string) (string, error) {
	return d.run(nil, append([]string{"runuser", "--user", user, "--"}, args...)...)
}

// CopyIn copies a file of this machine into the distribution, with its mode.
func (d *Distro) CopyIn(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	mode := strconv.FormatUint(uint64(info.Mode().Perm()), 8)
	_, err = d.run(f, "install", "-D", "--mode="+mode, "/dev/stdin", to)
	return err
}

func (d *Distro) run(stdin io.Reader, args ...string) (string, error) {
	select {
	case <-d.proc.Done():
		// By now the leader's number may be somebody else's.
		return "", fmt.Errorf("%s does not run any more", d.Name)
	default:
	}
	enter := []string{"--target", strconv.Itoa(d.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"}
	out, err := d.host.runIn(distroTimeout, nil, stdin, "nsenter", append(enter, args...)...)
	if err != nil {
		err = fmt.Errorf("in %s: %w", d.Name, err)
	}
	return out, err
}

// StartDocker starts the distribution's own Docker daemon by systemd, which
// takes flags from /etc/default/docker.
func (d *Distro) StartDocker() (*Docker, error) {
	if _, err := d.Run("systemctl", "start", "docker"); err != nil {
		return nil, err
	}
	return newDocker(&Docker{
		host: d.host,
		docker: func(stdin io.Reader, args ...string) (string, error) {
			return d.run(stdin, append([]string{"docker"}, args...)...)
		},
		stop: func() error {
			_, err := d.Run("systemctl", "stop", "docker.service", "docker.socket")
			return err
		},
	})
}

// PowerOff shuts the distribution down in an orderly way, and kills it if that
// takes too long.
func (d *Distro) PowerOff() error {
	_, _ = d.Run("systemctl", "poweroff") // an error, if it is gone before systemctl is
	var late error
	select {
	case <-d.proc.Done():
	case <-time.After(distroTimeout):
		late = fmt.Errorf("%s did not power off in %v", d.Name, distroTimeout)
	}
	return errors.Join(late, d.Close())
}

// Close ends the distribution at once, as "wsl --terminate" does.
func (d *Distro) Close() error {
	d.host.forget(d)
	return errors.Join(d.proc.Close(), closeCgroup(d.cgroup))
}
