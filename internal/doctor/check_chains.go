package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/sockdiag"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/internal/trace"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

func checkWSLChains(o *Observation) Check {
	if o.Ruleset.Err != nil {
		return unseen("WSL's own nftables chains", o.Ruleset.Err)
	}
	var have, lack, restored []string
	var missing []ruleset.WSLChain
	grave := Warning // nothing but IPv6
	for _, c := range o.Ruleset.Value.WSL {
		if len(c.Rules) > 0 {
			have = append(have, c.String())
			if slices.ContainsFunc(c.Rules, func(r ruleset.Rule) bool { return r.Comment == nft.RestoredComment }) {
				restored = append(restored, c.String())
			}
			continue
		}
		if c.Name == "WSLPOSTROUTING" && o.Net.Err == nil && len(o.nics()) == 0 {
			continue // WSL adds its rules for each link, and there is none (LxGnsMessageInterfaceNetFilter in GnsEngine.cpp)
		}
		missing, lack = append(missing, c), append(lack, c.String())
		if c.Family == "ip" {
			grave = Fault
		}
	}
	switch {
	case len(missing) == 0 && len(restored) > 0:
		return ok("%s; %s: %s", strings.Join(have, ", "), nft.RestoredComment, strings.Join(restored, ", "))
	case len(missing) == 0:
		return ok("%s", strings.Join(have, ", "))
	}
	c := Check{Verdict: grave, Seen: "WSL's own nftables chains are gone, or empty: " + strings.Join(lack, ", ")}
	c = c.because("Without them containers cannot reach the outside: Windows drops packets whose source port is not in the block that it knows. "+
		"'nft flush ruleset' removes them. Debian's nftables.service runs that whenever it starts or stops. WSL adds the chains only at boot.", "")
	if o.Systemd && o.NFTables {
		// Before the chains are restored: it may stop with the next boot.
		c = c.do("# if Debian's nftables.service did it and nothing else needs it; without --now, because stopping it flushes again",
			"sudo systemctl disable nftables")
	}
	lines := o.restoration(missing)
	if lines == nil {
		return c.do(restart)
	}
	if c = c.do(lines...); o.dockerFlushed() {
		c = c.do("sudo systemctl restart docker   # its rules are gone, too")
	}
	if o.Podman.Present {
		c = c.do("sudo podman network reload --all   # its rules are gone, too") // without any it does nothing
	}
	return c
}

// checkGist looks for the chain of a workaround from 2024 that many users copied.
func checkGist(o *Observation) Check {
	switch {
	case o.Ruleset.Err != nil:
		return unseen("the chains of others", o.Ruleset.Err)
	case !o.Ruleset.Value.Gist:
		return ok("no chain ip nat WSLPREROUTING is left over from an earlier workaround")
	}
	return warning("a chain ip nat WSLPREROUTING is left over from an earlier workaround").
		because("It acts in addition to wslmirror's own chain, even on ports that wslmirror leaves alone.", "").
		do("sudo nft flush chain ip nat WSLPREROUTING && sudo nft delete chain ip nat WSLPREROUTING",
			"# and remove what loads it: grep -rs WSLPREROUTING /etc")
}

// restoration returns the commands that restore WSL's chains
// (src/linux/init/GnsEngine.cpp), nil if something that they need is unknown.
func (o *Observation) restoration(missing []ruleset.WSLChain) (commands []string) {
	// If somebody has widened the range, Linux uses more than Windows has reserved. Then
	// containers would use source ports that Windows drops, and no check could
	// detect it any more.
	b := o.Block.Value.OfWSL()
	nics := o.nics()
	for _, c := range missing {
		body := "type filter hook output priority filter; policy accept; counter meta mark set 0x00000001;"
		if c.Name != "WSLOUTPUT" {
			if o.Block.Err != nil || b.Size() == 0 || len(nics) == 0 || slices.ContainsFunc(nics, unquotable) {
				return nil
			}
			body = "type nat hook postrouting priority srcnat - 1; policy accept;"
			for _, nic := range nics {
				for _, p := range []string{"udp", "tcp"} {
					body += fmt.Sprintf(" oif %q %s sport 1-65535 meta mark != 0x00000001 counter masquerade to :%d-%d;", nic, p, b.First, b.Last)
				}
			}
		}
		commands = append(commands, "sudo nft "+text.Word(fmt.Sprintf("table %s %s { chain %s { %s }; }", c.Family, c.Table, c.Name, body)))
	}
	return commands
}

// unquotable reports whether nft cannot take the name of a link in quotes: nft
// has no escapes in quotes, and a star at the end is a wildcard.
func unquotable(link string) bool {
	return strings.ContainsAny(link, `"\*`) || text.Line(link) != link
}

// sysctlFiles are where sysctl.d(5) and sysctl.conf(5) look.
const sysctlFiles = "/etc/sysctl.conf /etc/sysctl.d /run/sysctl.d /usr/lib/sysctl.d"

func checkPortRange(o *Observation) Check {
	const why = "Windows has reserved a block of source ports for Linux. All connections to localhost from other ports hang until WSL is restarted."
	b := o.Block.Value
	switch {
	case o.Block.Err != nil:
		return unseen("the range of source ports", o.Block.Err)
	case b.Widened():
		return fault("ip_local_port_range is %d-%d, but Windows has reserved %d-%d", b.First, b.Last, b.Windows.First, b.Windows.Last).
			because(why, "microsoft/WSL#41227").
			do(fmt.Sprintf("sudo sysctl -w net.ipv4.ip_local_port_range=\"%d %d\"", b.Windows.First, b.Windows.Last),
				"# and remove the setting: grep -rs ip_local_port_range "+sysctlFiles,
				"# or keep the range, and add the rest of it to net.ipv4.ip_local_reserved_ports, which is safe",
				restart)
	case b.Windows != ports.Range{}:
		return ok("%d-%d, as Windows has reserved", b.First, b.Last)
	case b.Size() > ports.MostReserved:
		c := warning("ip_local_port_range is %d-%d, %d ports; WSL is not known to reserve more than %d", b.First, b.Last, b.Size(), ports.MostReserved).
			because(why, "microsoft/WSL#41227")
		if o.Ruleset.Err != nil {
			return c.do("sudo wslmirror doctor   # shows what Windows has reserved")
		}
		return c.do("# first remove the setting: grep -rs ip_local_port_range "+sysctlFiles, restart)
	case o.Ruleset.Err == nil:
		return notApplicable("%d-%d; WSL's chain with the range that Windows has reserved is gone", b.First, b.Last)
	}
	return unknown("%d-%d; could not read what Windows has reserved: %v", b.First, b.Last, o.Ruleset.Err)
}

func checkHeadroom(o *Observation) Check {
	if o.Block.Err != nil {
		return unseen("the use of source ports", o.Block.Err)
	}
	b := o.Block.Value
	// No connection can use the port of a listener in the block.
	var kept []uint16
	for _, l := range o.Listeners.Value {
		if port := l.Addr.Port(); l.Proto == "tcp" && b.Contains(port) && !b.IsReserved(port) {
			kept = add(kept, port)
		}
	}
	load := b.Worst
	if load.Proto != "udp" {
		load.Used, load.Of = load.Used+len(kept), b.Usable
	}
	to := "to one destination"
	if load.Destination.IsValid() {
		to = "to " + load.Destination.String()
	}
	if load.Proto == "udp" {
		to = "for UDP"
	}
	seen := fmt.Sprintf("%d of %d ports (%.0f %%) are in use %s", load.Used, load.Of, 100*load.Share(), to)
	if !b.Containers {
		seen += ", not counting connections of containers"
		if b.Unseen != nil {
			seen += fmt.Sprintf(" (%v)", b.Unseen)
		}
	}
	const why = "Each connection to a destination needs its own source port. Without a free port, connect() fails with \"Cannot assign requested address\"."
	help := []string{
		"ss -tan | awk '{print $5}' | sort | uniq -c | sort -n | tail   # shows the destinations with the most connections",
		"# let that program reuse its connections, or close them earlier; newer versions of WSL reserve 4096 ports (wsl.exe --update)",
	}
	switch {
	case b.Usable == 0:
		return fault("no port of %d-%d can be used: all are in ip_local_reserved_ports", b.First, b.Last).because(why, "").
			do("sudo sysctl net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports   # the second leaves nothing of the first",
				"# and where they are set: grep -rs ip_local_ "+sysctlFiles)
	case load.Used == 0:
		return ok("none of %d ports is in use", b.Usable)
	case load.Used >= load.Of:
		return fault("%s", seen).because(why, "microsoft/WSL#11450").do(help...)
	case load.Share() >= ports.NearlyFull:
		return warning("%s", seen).because(why, "microsoft/WSL#11450").do(help...)
	}
	return ok("%s", seen)
}

func checkPublished(o *Observation) Check {
	published, err := o.published()
	switch {
	case err != nil:
		return unseen("which ports are published", err)
	case len(published) == 0:
		return notApplicable("no engine publishes a port")
	case o.Listeners.Err != nil && !errors.Is(o.Listeners.Err, sockdiag.ErrNoUDP):
		return unseen("the listeners", o.Listeners.Err)
	}
	var silent, foreign []status.Port
	for _, p := range published {
		if o.Listeners.Err != nil && p.Proto == "udp" {
			continue
		}
		switch {
		case slices.ContainsFunc(o.Listeners.Value, func(l ports.Listener) bool { return l.Announces(p.Proto, p.Port, p.Address) }):
		case p.ByEngine():
			silent = append(silent, p)
		default:
			foreign = append(foreign, p)
		}
	}
	switch {
	case len(silent) == 0 && len(foreign) > 0:
		return warning("forwarded by rules of no known engine, and not reachable from Windows: %s", portNames(foreign)).
			because("A VPN that redirects DNS adds such rules, which is harmless. Windows learns of a port only when a program in Linux binds it.", "").
			do("# if Windows should reach it, let a program listen there")
	case len(silent) == 0 && o.Listeners.Err != nil:
		return unseen("the UDP listeners", o.Listeners.Err)
	case len(silent) == 0:
		return o.judgeContainers(len(published))
	}
	c := fault("published, but with no listener that Windows sees: %s", portNames(silent)).
		because("Windows learns of a port when a program in Linux binds it, and forwards connections only to such ports. Rules alone, such as those of nerdctl, k3s or CNI, tell Windows nothing.", "microsoft/WSL#11730")
	if o.consomme() {
		c.Why += " And " + ports.Silent + "."
	}
	for _, p := range silent {
		if p.Engine == "podman" && o.Podman.ForceListen.Err == nil && !o.Podman.ForceListen.Value && major(o.Podman.Version.Value) >= 6 {
			return c.do("# see podman: force_port_listen")
		}
	}
	byKernel := slices.ContainsFunc(silent, func(p status.Port) bool { return p.Path == status.PathKernel })
	if byKernel && errors.Is(o.Hold.Err, fs.ErrNotExist) && o.Systemd {
		return c.do("sudo systemctl start wslmirror-hold   # it holds ports that have no socket, unless WSLMIRROR_HOLD=false in /etc/default/wslmirror")
	}
	for _, r := range o.Hold.Value.Refused {
		c.Seen += fmt.Sprintf("; wslmirror cannot hold %s: %s", r.Port, r.Reason)
	}
	const most = 3
	for i, p := range silent {
		if i == most {
			return c.do(fmt.Sprintf("# and the same for the other %d", len(silent)-most))
		}
		c = c.do(listen(p))
	}
	return c
}

// judgeContainers judges whether containers listen where their ports are published.
func (o *Observation) judgeContainers(published int) Check {
	idle := o.causes(func(t trace.Trace) (trace.Hop, bool) {
		h, stops := t.StoppedBy()
		return h, stops && h.Kind == trace.InsideHost && h.Verdict == "none"
	})
	if len(idle) == 0 {
		return ok("published ports: %d, each with a socket%s", published, o.heldByUs())
	}
	var seen []string
	c := Check{Verdict: Warning}
	for _, s := range idle {
		seen = append(seen, s.String())
		c = c.do(s.fix...)
	}
	c.Seen = "published, but no program answers: " + shortened(seen)
	return c
}

// heldByUs says how many ports wslmirror holds, "" for none.
func (o *Observation) heldByUs() string {
	n := 0
	for _, l := range o.Listeners.Value {
		if l.Holder {
			n++
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d of them held by wslmirror", n)
}

func portNames(list []status.Port) string {
	var names []string
	for _, p := range list {
		names = append(names, fmt.Sprintf("%d/%s (%s)", p.Port, p.Proto, p.Engine))
	}
	return strings.Join(names, ", ")
}

// listen is a command that listens on p and forwards to its target.
func listen(p status.Port) string {
	to, err := netip.ParseAddrPort(p.Target)
	on, onErr := netip.ParseAddr(p.Address)
	if err != nil || onErr != nil || !on.Is4() || to.Port() == 0 || !to.Addr().Is4() || to.Addr().IsUnspecified() || p.Proto != "tcp" && p.Proto != "udp" {
		return fmt.Sprintf("# publish %d with an engine that listens on its ports, as Docker and Podman do", p.Port)
	}
	bind := ""
	if !on.IsUnspecified() {
		bind = ",bind=" + on.String() // do not expose on the LAN what was published for this machine
	}
	line := fmt.Sprintf("socat TCP-LISTEN:%d,fork,reuseaddr%s TCP:%s", p.Port, bind, to)
	if p.Proto == "udp" {
		line = fmt.Sprintf("socat UDP-LISTEN:%d,fork%s UDP:%s", p.Port, bind, to)
	}
	if p.Port < firstUser {
		return "sudo -b " + line // asks for the password, then continues in the background
	}
	return line + " &"
}

// firstUser is the first port that any user may bind.
const firstUser = 1024
