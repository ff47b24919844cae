package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Swarms are the kinds of Docker in swarm mode. They are not among [Engines], since they
// need a kernel with IPVS and VXLAN.
var Swarms = []EngineKind{
	{"swarm-20.10", func(h *Host) (Engine, error) { return startSwarm(h.StartDocker()) }},
}

// A swarm is a swarm of one Docker. Its containers are services, and their ports are
// published in the mode ingress, on all addresses.
type swarm struct{ *Docker }

// startSwarm has what a Start method of Docker returned begin a swarm.
func startSwarm(d *Docker, err error) (Engine, error) {
	if err != nil {
		return nil, err
	}
	if _, err := d.CLI("swarm", "init", "--advertise-addr", wslAddr.Addr().String()); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return swarm{d}, nil
}

// Run is [Docker.Run].
func (s swarm) Run(name string, publish ...string) (*Container, error) {
	var options []string
	for _, p := range publish {
		options = append(options, "--publish", p)
	}
	return s.RunWith(name, options...)
}

// RunWith is [Docker.RunWith] with the options of "docker service create".
func (s swarm) RunWith(name string, options ...string) (*Container, error) {
	args := append([]string{"service", "create", "--name", name, "--no-resolve-image"}, options...)
	if _, err := s.CLI(append(args, imageName, "/echo", "-name", name, "-addr", ":80")...); err != nil {
		return nil, err
	}
	task, err := s.CLI("ps", "--filter", "label=com.docker.swarm.service.name="+name, "--format", "{{.ID}}")
	if err != nil {
		return nil, err
	}
	box, err := s.CLI("inspect", "--format", "{{.NetworkSettings.SandboxID}}", strings.TrimSpace(task))
	if err != nil {
		return nil, err
	}
	// The network ingress is not Linux's. Linux reaches a task by the bridge over which the
	// task reaches others.
	list, err := s.CLI("network", "inspect", "--format", "{{range .IPAM.Config}}{{.Gateway}}{{end}}{{range .Containers}} {{.Name}} {{.IPv4Address}}{{end}}", "docker_gwbridge")
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(list)
	for i := 1; i+1 < len(fields); i += 2 {
		if id, ok := strings.CutPrefix(fields[i], "gateway_"); !ok || !strings.HasPrefix(box, id) {
			continue
		}
		addr, err := netip.ParsePrefix(fields[i+1])
		if err != nil {
			return nil, err
		}
		gateway, err := netip.ParseAddr(fields[0])
		if err != nil {
			return nil, err
		}
		c := &Container{Name: name, Addr: addr.Addr(), Gateway: gateway}
		return c, s.host.Await(c)
	}
	return nil, fmt.Errorf("service %s has no address on docker_gwbridge: %s", name, list)
}

// Remove is [Docker.Remove].
func (s swarm) Remove(name string) error {
	_, err := s.CLI("service", "rm", name)
	return err
}
