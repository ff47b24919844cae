package doctor

import "strings"

// checkLegacy: what iptables-legacy writes, nftables does not show, and both
// judge each packet.
func checkLegacy(o *Observation) Check {
	switch {
	case o.Legacy.Err != nil:
		return unseen("the tables of iptables-legacy", o.Legacy.Err)
	case len(o.Legacy.Value) == 0:
		return ok("iptables-legacy has no tables")
	}
	return warning("iptables-legacy has tables beside those of nftables: %s", strings.Join(o.Legacy.Value, ", ")).
		because("Nobody sees the rules of the other: wslmirror does not know of a port that is published there, and treats it as one with a proxy.", "").
		do("sudo iptables-legacy-save   # what is in them",
			"sudo update-alternatives --set iptables /usr/sbin/iptables-nft",
			restart)
}

func checkUFW(o *Observation) Check {
	u := o.UFW.Value
	const allow = "sudo ufw allow in on "
	switch {
	case o.UFW.Err != nil:
		return unseen("ufw's settings", o.UFW.Err)
	case !u.Enabled:
		return notApplicable("ufw is off, or not installed")
	case u.Allows.Err == nil && u.Allows.Value:
		return ok("ufw is on, and lets %s in", o.Iface)
	}
	c := warning("ufw is on, and no rule of yours lets %s in", o.Iface)
	if u.Allows.Err != nil {
		c = Check{Verdict: Unknown, Seen: "ufw is on; could not see whether it lets " + o.Iface + " in: " + u.Allows.Err.Error()}
	}
	return c.because("ufw trusts lo alone, but Windows' localhost comes by "+o.Iface+". It also sets rp_filter whenever it starts (/etc/ufw/sysctl.conf).", "").
		do(allow+o.Iface, `# in /etc/ufw/sysctl.conf: net/ipv4/conf/all/rp_filter=0`)
}

func checkFirewalld(o *Observation) Check {
	there := o.runs("firewalld") || o.Ruleset.Value.Firewalld
	switch {
	case o.Programs.Err != nil && !there:
		return unseen("the processes", o.Programs.Err)
	case !there:
		return notApplicable("firewalld does not run")
	case o.Trusted.Err == nil && o.Trusted.Value:
		return ok("firewalld runs, and trusts %s", o.Iface)
	}
	c := warning("firewalld runs, and does not trust %s", o.Iface)
	if o.Trusted.Err != nil {
		c = Check{Verdict: Unknown, Seen: "firewalld runs; could not see whether it trusts " + o.Iface + ": " + o.Trusted.Err.Error()}
	}
	return c.because("Windows' localhost comes by "+o.Iface+", and the default zone lets little in.", "").
		do("sudo firewall-cmd --permanent --zone=trusted --add-interface="+o.Iface, "sudo firewall-cmd --reload")
}

func checkNetworkManager(o *Observation) Check {
	switch {
	case o.Programs.Err != nil:
		return unseen("the processes", o.Programs.Err)
	case !o.runs("NetworkManager"):
		return notApplicable("NetworkManager does not run")
	case o.Unmanaged.Err == nil && o.Unmanaged.Value:
		return ok("NetworkManager runs, and leaves %s alone", o.Iface)
	}
	c := warning("NetworkManager runs, and nothing keeps it from %s", o.Iface)
	if o.Unmanaged.Err != nil {
		c = Check{Verdict: Unknown, Seen: "NetworkManager runs; could not see its configuration: " + o.Unmanaged.Err.Error()}
	}
	return c.because("WSL sets the links up, and what NetworkManager does to their addresses and routes comes between.", "").
		// With += it adds to what other files have.
		do(`printf '[keyfile]\nunmanaged-devices+=interface-name:`+o.Iface+`;interface-name:eth*\n' | sudo tee /etc/NetworkManager/conf.d/wslmirror.conf`,
			"sudo systemctl reload NetworkManager")
}
