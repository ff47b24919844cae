package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/sockdiag"
	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// restart brings WSL's network back as it is after boot.
const restart = "wsl.exe --shutdown   # stops all distributions; then start WSL again"

func issueURL(issue string) string {
	repo, number, ok := strings.Cut(issue, "#")
	if !ok {
		return ""
	}
	return "https://github.com/" + repo + "/issues/" + number
}

func checkLoopback0(o *Observation) Check {
	l := o.link()
	const why = "Packets that Windows sends to localhost arrive on this link."
	switch {
	case o.Net.Err != nil:
		return unseen("the links", o.Net.Err)
	case !l.Present():
		return fault("the mode is mirrored, but there is no %s", o.Iface).because(why, "").do(restart)
	case !l.Up:
		// Its routes and neighbours are gone with it, and only WSL can restore them.
		return fault("%s (index %d) is down", l.Name, l.Index).because(why+" Its routes disappeared when it was set down.", "").do(restart)
	}
	return ok("%s, index %d, up", l.Name, l.Index)
}

// checkTracker: WSL's port tracker decides each bind() of the VM.
func checkTracker(o *Observation) Check {
	switch {
	case errors.Is(o.Bind.Err, unix.ENOSYS):
		return fault("WSL's port tracker has ended: bind() fails with %q in all programs", unix.ENOSYS.Error()).
			because("No program can open a port until WSL is restarted.", "").do(restart)
	case o.Bind.Err != nil:
		return unseen("whether bind() works", o.Bind.Err)
	}
	return ok("bind() works")
}

// checkNICs looks for a network in which only loopback0 came up. Windows may have
// no network, so it is no fault.
func checkNICs(o *Observation) Check {
	n := o.Net.Value
	var down []string
	for _, l := range n.Links {
		if !slices.Contains(o.nics(), l.Name) && !strings.HasPrefix(l.Name, "eth") || l.Master != 0 {
			continue
		}
		if l.Up || len(n.Prefixes[l.Index]) > 0 {
			return ok("%s is up or has an address", l.Name)
		}
		down = append(down, l.Name)
	}
	if len(down) == 0 {
		return notApplicable("no link but %s is mirrored", o.Iface)
	}
	return warning("%s: down and without addresses, while %s is up", strings.Join(down, ", "), o.Iface).
		because("Linux reaches only Windows' localhost. If Windows itself has a network, a Windows update may be the cause (KB5121003).", "microsoft/WSL#41398").
		do(restart, "# if that does not help: install the latest Windows updates, or uninstall KB5121003")
}

// checkUnsent checks the ports that WSL never mirrors: that of DNS, and those of
// ignoredPorts. Windows does not send their packets, and packets that Linux sends to them on
// 127.0.0.1 do not return from Windows.
func checkUnsent(o *Observation) Check {
	if o.Unsent.Err != nil {
		return unseen("where the kernel sends packets", o.Unsent.Err)
	}
	if o.Listeners.Err != nil && !errors.Is(o.Listeners.Err, sockdiag.ErrNoUDP) {
		return unseen("the listeners", o.Listeners.Err)
	}
	var names, commands []string
	for _, l := range o.Unsent.Value {
		names = add(names, fmt.Sprintf("%d/%s", l.Addr.Port(), l.Proto))
		commands = add(commands, fmt.Sprintf("sudo ip rule add pref 0 ipproto %s dport %d lookup local", l.Proto, l.Addr.Port()))
	}
	if len(names) == 0 {
		return ok("no program listens on a port that Windows never sends, or Linux reaches it itself")
	}
	return warning("Linux does not reach its own listeners on 127.0.0.1: %s", strings.Join(names, ", ")).
		because("Windows never sends packets for port 53 or the ports in ignoredPorts to Linux, but Linux's own packets to 127.0.0.1 go to Windows first.", "microsoft/WSL#14063").
		do(commands...)
}

// checkMPTCP looks for listeners that WSL's port tracker cannot handle
// (GnsPortTracker.cpp).
func checkMPTCP(o *Observation) Check {
	if o.Listeners.Err != nil && !errors.Is(o.Listeners.Err, sockdiag.ErrNoUDP) {
		return unseen("the listeners", o.Listeners.Err)
	}
	var names []string
	for _, l := range o.Listeners.Value {
		if l.MPTCP {
			names = add(names, fmt.Sprintf("%s on %s", l.Who(), l.Addr))
		}
	}
	if len(names) == 0 {
		return ok("no MPTCP listeners")
	}
	return warning("Windows never sees MPTCP listeners: %s", shortened(names)).
		because("WSL does not announce such sockets. Programs built with Go 1.24 or later use MPTCP by default.", "").
		do("sudo sysctl -w net.mptcp.enabled=0   # and restart the program; for a Go program, GODEBUG=multipathtcp=0 is enough")
}

// toWindows is the route of table 127.
func (o *Observation) toWindows() (r netwatch.Route, found bool) {
	i := slices.IndexFunc(o.Net.Value.Routes, func(r netwatch.Route) bool {
		return r.Table == netwatch.LoopbackTable && r.To == netip.PrefixFrom(ruleset.Localhost, 32)
	})
	if i < 0 {
		return r, false
	}
	return o.Net.Value.Routes[i], true
}

func checkTable127(o *Observation) Check {
	r, found := o.toWindows()
	link := o.Net.Value.LinkName(r.Link)
	why := "Linux reaches Windows' localhost through this route, and its own localhost through Windows."
	switch {
	case !found:
		return fault("table 127 has no route to 127.0.0.1").because(why, "").do(restart)
	case link != o.Iface || !r.Via.IsValid():
		return fault("table 127 sends 127.0.0.1 through %s, not through a gateway on %s", cmp.Or(link, "no link"), o.Iface).because(why, "").do(restart)
	}
	return ok("127.0.0.1 via %s on %s", r.Via, link)
}

// checkGateway checks the neighbour behind table 127. Its address has changed
// between versions of WSL (2.8.12), so the check takes it from the route.
func checkGateway(o *Observation) Check {
	r, found := o.toWindows()
	if !found || !r.Via.IsValid() || r.Link != o.link().Index {
		return notApplicable("table 127 has no gateway on %s", o.Iface)
	}
	if slices.ContainsFunc(o.Net.Value.Neighbours, func(n netwatch.Neighbour) bool {
		return n.Link == r.Link && n.Addr == r.Via && n.State&unix.NUD_PERMANENT != 0
	}) {
		return ok("%s on %s, with a permanent neighbour entry", r.Via, o.Iface)
	}
	return fault("the gateway %s on %s has no permanent neighbour entry", r.Via, o.Iface).
		because("No machine answers ARP requests for that address, so WSL adds its MAC address to the kernel.", "").
		do(fmt.Sprintf("sudo ip neigh replace %s lladdr 00:11:22:33:44:55 dev %s nud permanent", r.Via, o.Iface))
}

// An address is one of a link.
type address struct {
	link string
	netip.Addr
}

// lanRoutes are the addresses of the mirrored links (all), and those to which
// table 128 has a route (routed).
func (o *Observation) lanRoutes() (routed, all []address) {
	n := o.Net.Value
	for _, name := range o.nics() {
		link := netwatch.Find(n.Links, name).Index
		for _, p := range n.Prefixes[link] {
			a := address{name, p.Addr()}
			if !a.IsGlobalUnicast() {
				continue
			}
			all = append(all, a)
			if slices.ContainsFunc(n.Routes, func(r netwatch.Route) bool {
				return r.Table == netwatch.HostTable && r.To == netip.PrefixFrom(a.Addr, 32) && r.Link == link
			}) {
				routed = append(routed, a)
			}
		}
	}
	return routed, all
}

// checkTable128 checks the routes that WSL adds for each address if
// hostAddressLoopback is on. It is off by default, and then there are none
// (src/windows/service/exe/WslMirroredNetworking.cpp). So it is wrong if some are
// missing, but not if all are.
func checkTable128(o *Observation) Check {
	routed, all := o.lanRoutes()
	var have, lack []string
	for _, a := range all {
		name := fmt.Sprintf("%s on %s", a.Addr, a.link)
		if slices.Contains(routed, a) {
			have = append(have, name)
		} else {
			lack = append(lack, name)
		}
	}
	switch nics := o.nics(); {
	case len(nics) == 0:
		return notApplicable("no link but %s is mirrored", o.Iface)
	case len(all) == 0:
		return notApplicable("%s has no address", strings.Join(nics, ", "))
	case len(have) == 0:
		return o.noHostLoopback()
	case len(lack) > 0:
		return warning("table 128 has a route to %s, but none to %s", strings.Join(have, ", "), strings.Join(lack, ", ")).
			because("Linux does not reach Windows' servers through that address. After a change of the network, this can take a few seconds.", "").do(restart)
	}
	return ok("%s", strings.Join(have, ", "))
}

// noHostLoopback is the verdict on an empty table 128.
func (o *Observation) noHostLoopback() Check {
	const does = "Windows and Linux do not reach each other through this machine's LAN addresses, only through 127.0.0.1"
	switch conf := o.WSLConfig; {
	case conf.Err == nil && conf.Value.HostLoopback:
		return ok("it is empty, although hostAddressLoopback is true in .wslconfig: WSL has not applied that yet").because(does+".", "").do(restart)
	default:
		return ok("it is empty, because hostAddressLoopback is off: %s", does).
			do(`# to change that, set hostAddressLoopback=true in the section [experimental] of %UserProfile%\.wslconfig`, restart)
	}
}

func checkRPFilter(o *Observation) Check {
	if o.Sysctls.Err != nil {
		return unseen("the sysctls", o.Sysctls.Err)
	}
	const strict = 1
	all := o.Sysctls.Value["all"].RPFilter
	var links, set []string
	for _, name := range append([]string{o.Iface}, o.nics()...) {
		conf, seen := o.Sysctls.Value[name]
		// The kernel uses the larger value of "all" and the link, where 2 (loose) is the
		// larger number but the weaker filter (IN_DEV_RPFILTER of inetdevice.h).
		if !seen || max(all, conf.RPFilter) != strict {
			continue
		}
		links = append(links, name)
		if conf.RPFilter == strict {
			set = append(set, name)
		}
	}
	if len(links) == 0 {
		return ok("not strict on %s", strings.Join(append([]string{o.Iface}, o.nics()...), ", "))
	}
	c := fault("strict on %s", strings.Join(links, ", "))
	if links[0] != o.Iface {
		c.Verdict = Warning // only the LAN's addresses suffer
	}
	if all == strict {
		c.Seen += " (net.ipv4.conf.all.rp_filter=1)"
		c = c.do("sudo sysctl -w net.ipv4.conf.all.rp_filter=0",
			"# and where it is set: grep -rs rp_filter "+sysctlFiles+" /etc/ufw/sysctl.conf")
	}
	for _, name := range set {
		c = c.do("sudo sysctl -w " + text.Word(sysctlKey(name, "rp_filter")) + "=0")
	}
	return c.because("WSL turns this filter off: packets on "+o.Iface+" have one of this machine's own addresses as their source, and if several links are mirrored, an answer may arrive on another link than Linux expects. ufw turns it on.", "")
}

// checkAcceptLocal only warns: as long as WSL's ip rules exist, the route
// back to 127.0.0.1 is that of table 127, and the kernel accepts TCP and UDP
// without accept_local (__fib_validate_source in net/ipv4/fib_frontend.c; measured on the
// bench, on Linux 6.18).
func checkAcceptLocal(o *Observation) Check {
	return o.sysctl(Warning, "accept_local", func(c Conf) int { return c.AcceptLocal },
		"WSL sets it, because packets from Windows have the source 127.0.0.1, which is one of this machine's own addresses.")
}

func checkRouteLocalnet(o *Observation) Check {
	return o.sysctl(Fault, "route_localnet", func(c Conf) int { return c.RouteLocalnet },
		"Without it the kernel drops packets for 127.0.0.1 that arrive on any link but lo.")
}

// sysctl judges one that WSL sets on loopback0; it is also on if it is on for "all".
func (o *Observation) sysctl(grave Verdict, name string, value func(Conf) int, why string) Check {
	conf, seen := o.Sysctls.Value[o.Iface]
	switch {
	case o.Sysctls.Err != nil:
		return unseen("the sysctls", o.Sysctls.Err)
	case !seen:
		return unknown("/proc/sys does not have %s", o.Iface)
	case value(conf) == 0 && value(o.Sysctls.Value["all"]) == 0:
		return Check{Verdict: grave, Seen: fmt.Sprintf("%s of %s is 0", name, o.Iface)}.because(why, "").
			do("sudo sysctl -w " + text.Word(sysctlKey(o.Iface, name)) + "=1")
	}
	return ok("%s of %s is 1", name, o.Iface)
}

// checkGuard looks for links to containers on which packets of 127.0.0.0/8 may
// pass and no rule stops forged ones. "--path direct" sets
// route_localnet there on purpose, and guards the links.
func checkGuard(o *Observation) Check {
	if o.Net.Err != nil {
		return unseen("the links", o.Net.Err)
	}
	nics := o.nics()
	all := o.Sysctls.Value["all"].RouteLocalnet != 0 // kube-proxy sets it
	var open []string
	for _, l := range o.Net.Value.Links {
		if (l.RouteLocalnet || all) && l.Master == 0 && (l.Kind == "bridge" || l.Kind == "veth") && l.Name != o.Iface && !slices.Contains(nics, l.Name) {
			open = append(open, l.Name)
		}
	}
	const why = "A container that forges packets reaches 127.0.0.0/8 through such a link: in Linux, and through table 127 in Windows (CVE-2020-8558)."
	const start = "sudo systemctl enable --now wslmirror   # it guards them"
	switch {
	case len(open) == 0:
		return ok("no link to containers has route_localnet")
	case !o.active():
		return warning("route_localnet is on for %s, and no wslmirror guards it", strings.Join(open, ", ")).because(why, "").do(start)
	case o.Ruleset.Err != nil:
		return ok("route_localnet is on for %s, which an active wslmirror guards", strings.Join(open, ", "))
	}
	if open = slices.DeleteFunc(open, o.Ruleset.Value.Ours.Guards); len(open) > 0 {
		return warning("route_localnet is on for %s, which wslmirror does not guard", strings.Join(open, ", ")).because(why, "").
			do("sudo systemctl restart wslmirror")
	}
	return ok("wslmirror guards the links to containers, including those with route_localnet")
}

// sysctlKey is the name of a sysctl of a link. sysctl(8) reads dots as
// separators, and a slash as a dot in a name (eth0.100).
func sysctlKey(link, name string) string {
	return "net.ipv4.conf." + strings.ReplaceAll(link, ".", "/") + "." + name
}

// protocols are those that are mirrored.
var protocols = []struct {
	name   string
	number uint8
}{{"tcp", unix.IPPROTO_TCP}, {"udp", unix.IPPROTO_UDP}}
