package doctor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/trace"
)

func checkDocker(o *Observation) Check {
	switch {
	case o.Docker.Desktop:
		return notApplicable("Docker Desktop publishes ports with its own program in Windows")
	case o.Programs.Err != nil:
		return unseen("the processes", o.Programs.Err)
	case !o.runs("dockerd"):
		return notApplicable("dockerd is not running in this distribution")
	}
	seen := "version " + o.Docker.Version.Value
	if o.Docker.Version.Err != nil {
		seen = fmt.Sprintf("version unknown (%v)", o.Docker.Version.Err)
	}
	if o.Docker.Settings.Err != nil {
		return unknown("%s, settings unknown (%v)", seen, o.Docker.Settings.Err)
	}
	s := o.Docker.Settings.Value
	proxy := "on"
	if !s.UserlandProxy {
		proxy = "off: rules in the kernel serve localhost"
	}
	seen += fmt.Sprintf(", firewall %s, userland proxy %s", s.Firewall, proxy)
	switch {
	case o.inLegacy():
		seen += "; its rules are in iptables-legacy, which wslmirror does not check"
		if o.Legacy.Err != nil {
			seen += fmt.Sprintf(", or gone: could not read those tables (%v)", o.Legacy.Err)
		}
		return Check{Verdict: Unknown, Seen: seen}
	case o.dockerFlushed():
		return warning("%s, but its rules are not in the kernel", seen).
			because("Something has flushed the ruleset: containers have no network and no published ports.", "").
			do("sudo systemctl restart docker")
	case s.Firewall == "none" && !s.UserlandProxy:
		return warning("%s", seen).because("There are neither rules nor a proxy, so published ports do not work.", "").
			do("# remove \"iptables\": false or \"userland-proxy\": false from /etc/docker/daemon.json", "sudo systemctl restart docker")
	}
	return ok("%s", seen)
}

// lacksDocker reports whether nftables contains no rules of Docker, although Docker
// should have rules somewhere.
func (o *Observation) lacksDocker() bool {
	return o.runs("dockerd") && o.Ruleset.Err == nil && !o.Ruleset.Value.Docker && o.Docker.Settings.Value.Firewall != "none"
}

// inLegacy reports whether they are, or may be, in tables that nftables does not
// show.
func (o *Observation) inLegacy() bool {
	there := o.Legacy.Err != nil || slices.Contains(o.Legacy.Value, "nat") || slices.Contains(o.Legacy.Value, "filter")
	return o.lacksDocker() && there && o.Docker.Settings.Value.Firewall != "nftables"
}

// dockerFlushed reports whether something has removed Docker's rules.
func (o *Observation) dockerFlushed() bool { return o.lacksDocker() && !o.inLegacy() }

// checkDockerLoopback checks what Docker does to packets from Windows. Since
// 27.3 Docker lets loopback0 pass to its proxy. Since 28 it drops packets to ports on
// 127.0.0.1 that do not arrive on lo, except those on loopback0. Both hold only if
// the link exists when dockerd starts (moby#53382).
func checkDockerLoopback(o *Observation) Check {
	if o.Ruleset.Err != nil {
		if o.Programs.Err == nil && !o.runs("dockerd") {
			return notApplicable("dockerd is not running in this distribution")
		}
		return unseen("Docker's rules", o.Ruleset.Err)
	}
	r := o.Ruleset.Value
	if len(r.Missing) > 0 {
		var at []string
		for _, m := range r.Missing {
			at = append(at, m.String())
		}
		c := warning("packets from Windows are dropped: %s", strings.Join(at, ", ")).
			because(fmt.Sprintf("dockerd started before %s existed, so it treats Windows as another machine on the network. wslmirror repairs that.", o.Iface), "moby/moby#53382")
		if !o.active() {
			return c.do(o.start()...) // the drops are an effect: without wslmirror nothing repairs them
		}
		c.Verdict = Fault
		return c.do("sudo systemctl restart docker", "# or let wslmirror do it: remove --repair=false from /etc/default/wslmirror")
	}
	switch {
	case !r.Docker:
		return notApplicable("Docker has no rules here")
	case len(r.Present) > 0:
		return ok("Docker started before %s existed; wslmirror lets packets for %d ports past Docker's drops", o.Iface, len(r.Present))
	case !r.PassesKnown:
		return ok("Docker publishes nothing")
	case r.Passes:
		return ok("Docker itself allows %s to reach its proxy", o.Iface)
	}
	return ok("Docker has no exception for %s, and wslmirror needs none", o.Iface)
}

func checkPodman(o *Observation) Check {
	version := o.Podman.Version.Value
	const conf = "force_port_listen = true"
	switch {
	case !o.Podman.Present:
		return notApplicable("Podman is not installed")
	case !o.shared():
		return ok("Podman is installed")
	case o.Podman.ForceListen.Value:
		return ok("%s", conf)
	case showsBound(o.Guest.Release):
		return ok("with this kernel Windows sees its ports, even if Podman binds them without listening")
	case o.Podman.Version.Err != nil:
		return unseen("Podman's version", o.Podman.Version.Err)
	case major(version) < 6:
		return ok("version %s", version)
	case o.Podman.ForceListen.Err != nil:
		return unknown("version %s; could not read force_port_listen: %v", version, o.Podman.ForceListen.Err)
	}
	c := warning("version %s without %s", version, conf).
		because("Since version 6, Podman binds the ports that it publishes but does not listen. WSL does not see such sockets before Linux 6.8, so Windows releases the ports after a minute.", "microsoft/WSL#41204")
	if strings.HasPrefix(version, "6.0") {
		c = c.do("# update Podman to 6.1, which has the option")
	}
	return c.do(
		"sudo mkdir -p /etc/containers/containers.conf.d",
		`printf '[engine]\nforce_port_listen = true\n' | sudo tee /etc/containers/containers.conf.d/wslmirror.conf`,
		"# and restart the containers")
}

// showsBound reports whether a kernel lists sockets that are bound but do not listen.
func showsBound(release string) bool {
	var first, second int
	_, err := fmt.Sscanf(release, "%d.%d", &first, &second)
	return err == nil && (first > 6 || first == 6 && second >= 8)
}

// major is the first number of a version, 0 if it has none.
func major(version string) int {
	first, _, _ := strings.Cut(version, ".")
	n, _ := strconv.Atoi(first)
	return n
}

// checkContainerToWindows checks whether containers reach servers on Windows'
// 127.0.0.1. It is no fault if they do not, so it warns only if the user
// has asked for it.
func checkContainerToWindows(o *Observation) Check {
	published, _ := o.published()
	if !o.Podman.Present && !o.runs("dockerd") && len(published) == 0 {
		return notApplicable("no container engine was found")
	}
	const why = "The addresses that containers have for this machine (host.docker.internal, 172.17.0.1) belong to Linux, so they never lead to Windows."
	if o.Status.Err != nil {
		return unseen("the daemon's state", o.Status.Err)
	}
	for _, d := range o.Status.Value.Directions {
		switch {
		case d.Name != status.ContainersToWindows:
		case d.Active:
			fromContainers := slices.DeleteFunc(slices.Clone(o.Ruleset.Value.Walks), func(w Walk) bool { return w.From != trace.Container })
			if see := o.lostIn(fromContainers); len(see) > 0 {
				return notApplicable("see %s", strings.Join(see, ", "))
			}
			c := ok("containers reach %s on Windows' 127.0.0.1 through this machine's addresses", strings.Join(d.Ports, ", "))
			if d.Reason != "" {
				c.Seen += "; " + d.Reason
			}
			return c
		case d.Reason != "" && d.Reason != status.NoPorts:
			return warning("containers should reach Windows' 127.0.0.1, but do not: %s", d.Reason).because(why, "microsoft/WSL#12626").
				do("sudo wslmirror ports   # shows who uses these ports in Linux")
		}
	}
	return ok("containers do not reach servers on Windows' 127.0.0.1; wslmirror can allow single ports").because(why, "microsoft/WSL#12626").
		do(`# in /etc/default/wslmirror, for example for port 11434: WSLMIRROR_OPTS="--to-windows 11434"`, "sudo systemctl restart wslmirror")
}
