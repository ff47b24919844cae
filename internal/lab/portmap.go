package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
)

// portmapScript makes the tree a place where CNI's plugins can run. See dockerScript.
const portmapScript = `
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
exec chroot . sh -c 'systemd-notify --ready --no-block; exec sleep infinity'
`

var (
	cniBridge    = netip.MustParsePrefix("10.4.0.1/24")
	cniContainer = netip.MustParsePrefix("10.4.0.2/24")
)

// Portmap is CNI's plugin portmap, Debian 12's, which nerdctl and k3s run: it publishes
// ports of a container by rules alone. The bridge and the container are the bench's.
type Portmap struct {
	Container *Host

	host *Host
	tree *Process
	conf []byte // of what is published now, nil for nothing
}

// StartPortmap makes the bridge cni0 with a container, which answers with its name
// "container", and publishes nothing yet.
func (b *Bench) StartPortmap() (*Portmap, error) {
	container, err := b.AddContainer("container")
	if err != nil {
		return nil, err
	}
	if err := b.WSL.Sysctl("ipv4/ip_forward", "1"); err != nil {
		return nil, err
	}
	if err := b.AddBridge("cni0", cniBridge); err != nil {
		return nil, err
	}
	if err := b.Plug(container, "veth0", "cni0", cniContainer, cniBridge.Addr()); err != nil {
		return nil, err
	}
	tree, err := b.WSL.startOnTree(podmanTimeout, portmapScript)
	if err != nil {
		return nil, fmt.Errorf("prepare portmap: %w", err)
	}
	return &Portmap{Container: container, host: b.WSL, tree: tree}, b.AwaitContainer(cniContainer.Addr())
}

// Publish publishes ports, for example "8080/tcp", on all addresses. It takes the place of
// what was published before.
func (p *Portmap) Publish(ports ...string) error {
	if err := p.Withdraw(); err != nil {
		return err
	}
	type mapping struct {
		HostPort      int    `json:"hostPort"`
		ContainerPort int    `json:"containerPort"`
		Protocol      string `json:"protocol"`
	}
	var mappings []mapping
	for _, port := range ports {
		number, proto, _ := strings.Cut(port, "/")
		n, err := strconv.Atoi(number)
		if err != nil {
			return err
		}
		mappings = append(mappings, mapping{n, containerPort, proto})
	}
	type object = map[string]any
	conf, err := json.Marshal(object{
		"cniVersion": "0.4.0", "name": "lab", "type": "portmap", "snat": true,
		"runtimeConfig": object{"portMappings": mappings},
		"prevResult": object{
			"cniVersion": "0.4.0",
			"interfaces": []object{{"name": "cni0"}, {"name": "veth0"}, {"name": eth0, "sandbox": "/sandbox"}},
			"ips":        []object{{"version": "4", "interface": 2, "address": cniContainer.String(), "gateway": cniBridge.Addr().String()}},
		},
	})
	if err != nil {
		return err
	}
	p.conf = conf
	return p.run("ADD")
}

// Withdraw removes what Publish has made, as when the container ends.
func (p *Portmap) Withdraw() error {
	if p.conf == nil {
		return nil
	}
	err := p.run("DEL")
	p.conf = nil
	return err
}

func (p *Portmap) run(command string) error {
	cmd := exec.Command("nsenter", "--target", strconv.Itoa(p.tree.Cmd.Process.Pid), "--mount", "--pid", "--root", "--wd", "/usr/lib/cni/portmap")
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "CNI_COMMAND=" + command, "CNI_CONTAINERID=container",
		"CNI_NETNS=/sandbox", "CNI_IFNAME=" + eth0, "CNI_PATH=/usr/lib/cni",
	}
	cmd.Stdin = strings.NewReader(string(p.conf))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	process, err := p.host.Start(cmd)
	if err == nil {
		err = process.Wait()
	}
	if err != nil {
		return fmt.Errorf("portmap %s: %w: %s", command, err, out.String())
	}
	return nil
}
