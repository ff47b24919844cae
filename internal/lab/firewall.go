package lab

// firewalls is Debian 13 with the programs that manage a firewall, and a Docker that tells
// firewalld of its bridges by D-Bus. It has sudo, so that commands run there as they are printed.
var firewalls = tree{
	suite: "trixie",
	packages: []string{
		"dbus",
		"docker-cli",
		"docker.io",
		"firewalld",
		"iproute2",
		"iptables",
		"libpam-systemd",
		"nftables",
		"sudo",
		"systemd",
		"systemd-sysv",
		"ufw",
	},
	steps: []string{
		// firewalld and the engine run only if a test starts them. ufw is off until it is enabled.
		`chroot "$1" systemctl disable docker.service docker.socket containerd.service firewalld.service`,
		// The bench configures the network, as WSL does.
		`chroot "$1" systemctl mask systemd-networkd.service`,
	},
}

// BootFirewalls is Boot for a distribution that has ufw and firewalld. Neither is on.
func (h *Host) BootFirewalls(name string) (*Distro, error) { return h.bootOn(firewalls, name) }
