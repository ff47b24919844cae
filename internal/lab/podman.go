package lab

import (
	"fmt"
	"io"
	"strconv"
	"time"
)

// podmanTimeout bounds the preparation for Podman, which starts nothing.
var podmanTimeout = Scaled(time.Minute)

// podmanScript makes the tree a machine for Podman, which has no daemon: a
// process 1 that reaps containers, and that they end with. Containers have no
// cgroups of their own, so there are none to remove. /sys is new because crun
// refuses to run where a machine has cgroups of both versions. The limits are
// low because Podman may not raise its own. For the rest see dockerScript.
const podmanScript = `
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --rbind /dev dev
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p var/lib/containers
mount -t tmpfs -o mode=755 tmpfs var/lib/containers
cat >etc/containers/containers.conf <<.
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
[network]
network_backend = "$1"
.
cat >etc/containers/storage.conf <<.
[storage]
driver = "overlay"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
.
exec chroot . docker-init -- sh -c 'systemd-notify --ready --no-block; exec sleep infinity'
`

// A PodmanNetwork is what makes Podman's networks.
type PodmanNetwork struct {
	tree              tree
	backend, firewall string
}

var (
	// Netavark is Podman's own, in Debian 12: it writes its rules by iptables.
	Netavark = PodmanNetwork{bookworm, "netavark", "iptables"}
	// NetavarkNFT is that of Debian 13, told to use nftables. The newest
	// versions can do nothing else.
	NetavarkNFT = PodmanNetwork{trixie, "netavark", "nftables"}
	// CNI is the plugins bridge and portmap, which nerdctl and k3s use too.
	CNI = PodmanNetwork{bookworm, "cni", "iptables"}
)

// Podman is a real Podman, Debian's 4.3 or 5.4, run by root in a host's network.
// Its command line is made to be Docker's, so whatever [Docker] does with that
// works here too. Docker in the same host would drop what Podman forwards.
type Podman struct{ *Docker }

// StartPodman prepares Podman in the host's network. It keeps all its files in
// memory; it, its containers and their networks end with this process, however
// that ends.
func (h *Host) StartPodman(network PodmanNetwork) (*Podman, error) {
	p, err := h.startOn(network.tree, podmanTimeout, podmanScript, network.backend)
	if err != nil {
		return nil, fmt.Errorf("start podman: %w", err)
	}
	enter := []string{
		"--target", strconv.Itoa(p.Cmd.Process.Pid), "--mount", "--net", "--pid", "--root", "--wd",
		"--", "env", "NETAVARK_FW=" + network.firewall, "podman",
	}
	d, err := newDocker(&Docker{
		host: h,
		docker: func(stdin io.Reader, args ...string) (string, error) {
			return h.runIn(dockerTimeout, nil, stdin, "nsenter", append(enter, args...)...)
		},
		root: fmt.Sprintf("/proc/%d/root", p.Cmd.Process.Pid),
		stop: p.Close,
	})
	if err != nil {
		return nil, err
	}
	return &Podman{d}, nil
}
