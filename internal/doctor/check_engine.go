package doctor

import (
	"fmt"
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
		return Check{Verdict: Unknown, Seen: fmt.Sprintf("%s, settings not seen (%v)", seen, o.Docker.Settings.Err)}
	}
	s := o.Docker.Settings.Value
	proxy := "on"
	if !s.UserlandProxy {
		proxy = "off: the kernel serves localhost"
	}
	seen += fmt.Sprintf(", firewall %s, userland proxy %s", s.Firewall, proxy)
	switch {
	case o.Ruleset.Err == nil && !o.Ruleset.Value.Docker && s.Firewall != "none":
		return warning("%s; but its rules are not in the kernel", seen).
			because("Somebody has flushed the ruleset: containers have no network and no published ports.", "").
			do("sudo systemctl restart docker")
	case s.Firewall == "none" && !s.UserlandProxy:
		return warning("%s", seen).because("Neither rules nor a proxy: nothing serves published ports.", "").
			do("# take \"iptables\": false or \"userland-proxy\": false out of /etc/docker/daemon.json", "sudo systemctl restart docker")
	}
	return ok("%s", seen)
}

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
	if n := len(r.View.Missing); n > 0 {
		var at []string
		for _, a := range r.View.Missing {
			at = add(at, a.String())
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
	case len(r.View.Accepts) > 0:
		return ok("Docker started before %s: wslmirror has undone its drops for %d ports", o.Iface, len(r.View.Accepts))
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
	case !o.mirrored(), major(version) < 6:
		return ok("version %s", version)
	case o.Podman.ForceListen.Err != nil:
		return Check{Verdict: Unknown, Seen: fmt.Sprintf("version %s; could not see force_port_listen: %v", version, o.Podman.ForceListen.Err)}
	case o.Podman.ForceListen.Value:
		return ok("version %s, %s", version, conf)
	}
	c := warning("version %s without %s", version, conf).
		because("Since version 6 Podman does not listen on the ports that it publishes, and then Windows does not pass them on.", "microsoft/WSL#41204")
	if strings.HasPrefix(version, "6.0") {
		c = c.do("# update Podman to 6.1, which has the option")
	}
	return c.do(
		"sudo mkdir -p /etc/containers/containers.conf.d",
		`printf '[engine]\nforce_port_listen = true\n' | sudo tee /etc/containers/containers.conf.d/wsl.conf`,
		"# and start the containers anew")
}

// major is the first number of a version, 0 if it has none.
func major(version string) int {
	first, _, _ := strings.Cut(version, ".")
	n, _ := strconv.Atoi(first)
	return n
}

func checkHostLoopback(o *Observation) Check {
	published := o.published()
	if o.Podman.Version.Value == "" && !o.runs("dockerd") && len(published.Value) == 0 {
		return notApplicable("no container engine was found")
	}
	address := "this machine's address on the LAN"
	for _, nic := range o.nics() {
		for _, a := range o.Addrs.Value {
			if a.Link == nic && a.Addr.Is4() && a.Addr.IsGlobalUnicast() {
				address = a.Addr.String()
			}
		}
	}
	// Neither is wrong, so there is nothing to warn of.
	const why = "The host-gateway address (172.17.0.1) is not mirrored, so it never leads to Windows."
	if o.HostLoopback.Err != nil {
		c := unseen("hostAddressLoopback in .wslconfig", o.HostLoopback.Err)
		c.Seen += fmt.Sprintf("; if it is true, a container reaches Windows by %s", address)
		return c.because(why, "microsoft/WSL#12626")
	}
	if o.HostLoopback.Value {
		return ok("hostAddressLoopback is true: a container reaches Windows by %s", address).because(why, "microsoft/WSL#12626")
	}
	return ok("hostAddressLoopback is off: containers cannot reach Windows; with it they could, by %s", address).because(why, "microsoft/WSL#12626").
		do(`# in %UserProfile%\.wslconfig, in the section [experimental]: hostAddressLoopback=true`, restart)
}
