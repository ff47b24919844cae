package doctor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

func checkDocker(o *Observation) Check {
	switch {
	case o.Docker.Desktop:
		return notApplicable("Docker Desktop publishes by a program of its own in Windows")
	case o.Programs.Err != nil:
		return unseen("the processes", o.Programs.Err)
	case !o.runs("dockerd"):
		return notApplicable("no dockerd runs in this distribution")
	}
	seen := "version " + o.Docker.Version.Value
	if o.Docker.Version.Err != nil {
		seen = fmt.Sprintf("version not seen (%v)", o.Docker.Version.Err)
	}
	if o.Docker.Settings.Err != nil {
		return unknown("%s, settings not seen (%v)", seen, o.Docker.Settings.Err)
	}
	s := o.Docker.Settings.Value
	proxy := "on"
	if !s.UserlandProxy {
		proxy = "off: the kernel serves localhost"
	}
	seen += fmt.Sprintf(", firewall %s, userland proxy %s", s.Firewall, proxy)
	switch {
	case o.inLegacy():
		seen += "; its rules are in iptables-legacy, and not judged here"
		if o.Legacy.Err != nil {
			seen += fmt.Sprintf(", or gone: could not see those tables (%v)", o.Legacy.Err)
		}
		return Check{Verdict: Unknown, Seen: seen}
	case o.dockerFlushed():
		return warning("%s; but its rules are not in the kernel", seen).
			because("Somebody has flushed the ruleset: containers have no network and no published ports.", "").
			do("sudo systemctl restart docker")
	case s.Firewall == "none" && !s.UserlandProxy:
		return warning("%s", seen).because("Neither rules nor a proxy: nothing serves published ports.", "").
			do("# take \"iptables\": false or \"userland-proxy\": false out of /etc/docker/daemon.json", "sudo systemctl restart docker")
	}
	return ok("%s", seen)
}

// lacksDocker reports whether nftables has no rules of Docker's, where Docker
// should have some somewhere.
func (o *Observation) lacksDocker() bool {
	return o.runs("dockerd") && o.Ruleset.Err == nil && !o.Ruleset.Value.Docker && o.Docker.Settings.Value.Firewall != "none"
}

// inLegacy reports whether they are in tables that nftables does not show, or may
// be.
func (o *Observation) inLegacy() bool {
	there := o.Legacy.Err != nil || slices.Contains(o.Legacy.Value, "nat") || slices.Contains(o.Legacy.Value, "filter")
	return o.lacksDocker() && there && o.Docker.Settings.Value.Firewall != "nftables"
}

// dockerFlushed reports whether somebody has taken Docker's rules away.
func (o *Observation) dockerFlushed() bool { return o.lacksDocker() && !o.inLegacy() }

// checkDockerLoopback looks at what Docker does to packets from Windows. Since
// 27.3 it lets loopback0 pass to its proxy, since 28 it drops what does not come
// by lo to ports on 127.0.0.1, and makes an exception of loopback0: both only if
// the link is there when dockerd starts (moby#53382).
func checkDockerLoopback(o *Observation) Check {
	if o.Ruleset.Err != nil {
		if o.Programs.Err == nil && !o.runs("dockerd") {
			return notApplicable("no dockerd runs in this distribution")
		}
		return unseen("what Docker does to packets from Windows", o.Ruleset.Err)
	}
	r := o.Ruleset.Value
	if len(r.Missing) > 0 {
		var at []string
		for _, d := range r.Missing {
			at = add(at, fmt.Sprintf("%s in %s %s", d.Ports, d.Table, d.Chain))
		}
		c := warning("packets from Windows are dropped: %s", strings.Join(at, ", ")).
			because(fmt.Sprintf("dockerd started before %s was there, so it takes Windows for a stranger on the network. wslmirror repairs that.", o.Iface), "moby/moby#53382")
		if !o.active() {
			return c.do(o.start()...) // this is not the cause but what comes of it
		}
		c.Verdict = Fault
		return c.do("sudo systemctl restart docker", "# or let wslmirror do it: no --repair=false in /etc/default/wslmirror")
	}
	switch {
	case !r.Docker:
		return notApplicable("there are no rules of Docker's")
	case len(r.Accepts) > 0:
		return ok("Docker started before %s: wslmirror has undone its drops for %d ports", o.Iface, len(r.Accepts))
	case !r.PassesKnown:
		return ok("Docker publishes nothing")
	case r.Passes:
		return ok("Docker lets %s pass to its proxy by itself", o.Iface)
	}
	return ok("Docker has no exception for %s, and wslmirror needs none", o.Iface)
}

func checkPodman(o *Observation) Check {
	version := o.Podman.Version.Value
	const conf = "force_port_listen = true"
	switch {
	case o.Podman.Version.Err != nil:
		return unseen("Podman's version", o.Podman.Version.Err)
	case version == "":
		return notApplicable("there is no Podman")
	case !o.shared(), major(version) < 6:
		return ok("version %s", version)
	case o.Podman.ForceListen.Err != nil:
		return unknown("version %s; could not see force_port_listen: %v", version, o.Podman.ForceListen.Err)
	case o.Podman.ForceListen.Value:
		return ok("version %s, %s", version, conf)
	}
	if showsBound(o.Guest.Release) {
		return ok("version %s without %s: it binds its ports and does not listen, which Windows sees with this kernel", version, conf)
	}
	c := warning("version %s without %s", version, conf).
		because("Since version 6 Podman binds the ports that it publishes and does not listen. Before Linux 6.8 WSL does not see such sockets, and Windows takes the ports back after a minute.", "microsoft/WSL#41204")
	if strings.HasPrefix(version, "6.0") {
		c = c.do("# update Podman to 6.1, which has the option")
	}
	return c.do(
		"sudo mkdir -p /etc/containers/containers.conf.d",
		`printf '[engine]\nforce_port_listen = true\n' | sudo tee /etc/containers/containers.conf.d/wslmirror.conf`,
		"# and start the containers anew")
}

// showsBound reports whether a kernel lists sockets that are bound and do not listen.
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

func checkHostLoopback(o *Observation) Check {
	published, _ := o.published()
	if o.Podman.Version.Value == "" && !o.runs("dockerd") && len(published) == 0 {
		return notApplicable("no container engine was found")
	}
	address := "this machine's address on the LAN"
	routed, all := o.lanRoutes()
	if len(routed) > 0 {
		address = routed[len(routed)-1].Addr.String()
	} else if len(all) > 0 {
		address = all[len(all)-1].Addr.String()
	}
	// Neither is wrong, so there is nothing to warn of.
	const (
		why   = "The host-gateway address (172.17.0.1) is not mirrored, so it never leads to Windows."
		issue = "microsoft/WSL#12626"
		seen  = "hostAddressLoopback"
	)
	conf := o.WSLConfig
	switch {
	case len(routed) > 0:
		// WSL has these routes made only where it is on: more than a file could say.
		return ok("%s is on: a container reaches Windows by %s", seen, address)
	case o.Net.Err == nil && len(all) > 0 && conf.Err == nil && conf.Value.HostLoopback:
		return ok("%s is true in .wslconfig, and not yet in force: containers cannot reach Windows", seen).because(why, issue).do(restart)
	case conf.Err == nil && conf.Value.HostLoopback:
		return ok("%s is true in .wslconfig: a container reaches Windows by %s", seen, address)
	case conf.Err != nil && (o.Net.Err != nil || len(all) == 0):
		c := unseen(seen+" in .wslconfig", conf.Err)
		c.Seen += fmt.Sprintf("; if it is true, a container reaches Windows by %s", address)
		return c.because(why, issue)
	}
	return ok("%s is off: containers cannot reach Windows; with it they could, by %s", seen, address).because(why, issue).
		do(`# in %UserProfile%\.wslconfig, in the section [experimental]: hostAddressLoopback=true`, restart)
}
