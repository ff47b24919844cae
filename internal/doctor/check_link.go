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
const restart = "wsl.exe --shutdown   # ends all distributions; then start WSL again"

func issueURL(issue string) string {
	repo, number, ok := strings.Cut(issue, "#")
	if !ok {
		return ""
	}
	return "https://github.com/" + repo + "/issues/" + number
}

func checkLoopback0(o *Observation) Check {
	l := o.link()
	const why = "Everything that Windows sends to localhost arrives on this link."
	switch {
	case o.Net.Err != nil:
		return unseen("the links", o.Net.Err)
	case !l.Present():
		return fault("the mode is mirrored, but there is no %s", o.Iface).because(why, "").do(restart)
	case !l.Up:
		// What goes with it, routes and neighbours, only WSL can bring back.
		return fault("%s (index %d) is down", l.Name, l.Index).because(why+" Its routes went when it was set down.", "").do(restart)
	}
	return ok("%s, index %d, up", l.Name, l.Index)
}

// checkTracker: WSL's port tracker decides each bind() of the VM.
func checkTracker(o *Observation) Check {
	switch {
	case errors.Is(o.Bind.Err, unix.ENOSYS):
		return fault("WSL's port tracker has ended: bind() fails with %q in all programs", unix.ENOSYS.Error()).
			because("No program can open a port until WSL is started anew.", "").do(restart)
	case o.Bind.Err != nil:
		return unseen("whether bind() works", o.Bind.Err)
	}
	return ok("bind() works")
}

// checkNICs looks for a network that came up with loopback0 alone. Windows may be
// without a network, so it is no fault.
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
		because("Linux reaches nothing but Windows' localhost. If Windows itself has a network, an update of it may be the cause (KB5121003).", "microsoft/WSL#41398").
		do(restart, "# if it stays so: install Windows' newest updates, or uninstall KB5121003")
}

// checkUnsent looks at the ports that WSL never mirrors: that of DNS, and those of
// ignoredPorts. Windows does not send them, and what Linux sends to them on
// 127.0.0.1 does not come back from Windows.
func checkUnsent(o *Observation) Check {
	if o.Unsent.Err != nil {
		return unseen("where the kernel sends packets", o.Unsent.Err)
	}
	if o.Listeners.Err != nil && !errors.Is(o.Listeners.Err, sockdiag.ErrNoUDP) {
		return unseen("who listens", o.Listeners.Err)
	}
	var names, commands []string
	for _, l := range o.Unsent.Value {
		names = add(names, fmt.Sprintf("%d/%s", l.Addr.Port(), l.Proto))
		commands = add(commands, fmt.Sprintf("sudo ip rule add pref 0 ipproto %s dport %d lookup local", l.Proto, l.Addr.Port()))
	}
	if len(names) == 0 {
		return ok("nobody listens on a port that Windows never sends, or Linux reaches it by itself")
	}
	return warning("Linux does not reach its own listeners on 127.0.0.1: %s", strings.Join(names, ", ")).
		because("Windows never sends port 53 nor those of ignoredPorts, and Linux's own packets to 127.0.0.1 go to Windows first.", "microsoft/WSL#14063").
		do(commands...)
}

// checkMPTCP looks for listeners that WSL's port tracker cannot handle
// (GnsPortTracker.cpp).
func checkMPTCP(o *Observation) Check {
	if o.Listeners.Err != nil && !errors.Is(o.Listeners.Err, sockdiag.ErrNoUDP) {
		return unseen("who listens", o.Listeners.Err)
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
	return warning("Windows never learns of MPTCP listeners: %s", shortened(names)).
		because("WSL does not announce such sockets. Programs in Go ask for MPTCP by themselves since Go 1.24.", "").
		do("sudo sysctl -w net.mptcp.enabled=0   # and start the program anew; for one in Go, GODEBUG=multipathtcp=0 does as well")
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
	why := "By this route Linux reaches Windows' localhost, and itself through Windows."
	switch {
	case !found:
		return fault("table 127 has no route to 127.0.0.1").because(why, "").do(restart)
	case link != o.Iface || !r.Via.IsValid():
		return fault("table 127 sends 127.0.0.1 by %s, not by a gateway on %s", cmp.Or(link, "no link"), o.Iface).because(why, "").do(restart)
	}
	return ok("127.0.0.1 via %s on %s", r.Via, link)
}

// checkGateway looks at the neighbour behind table 127. Its address has changed
// between versions of WSL (2.8.12), so it is taken from the route.
func checkGateway(o *Observation) Check {
	r, found := o.toWindows()
	if !found || !r.Via.IsValid() || r.Link != o.link().Index {
		return notApplicable("table 127 names no gateway on %s", o.Iface)
	}
	if slices.ContainsFunc(o.Net.Value.Neighbours, func(n netwatch.Neighbour) bool {
		return n.Link == r.Link && n.Addr == r.Via && n.State&unix.NUD_PERMANENT != 0
	}) {
		return ok("%s on %s, with a permanent neighbour entry", r.Via, o.Iface)
	}
	return fault("the gateway %s on %s has no permanent neighbour entry", r.Via, o.Iface).
		because("Nobody answers for that address; WSL tells the kernel its MAC address.", "").
		do(fmt.Sprintf("sudo ip neigh replace %s lladdr 00:11:22:33:44:55 dev %s nud permanent", r.Via, o.Iface))
}

// An address is one of a link.
type address struct {
	link string
	netip.Addr
}

// lanRoutes are the addresses of the mirrored links, and of these the ones to which
// table 128 has a route.
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

// checkTable128 looks at the routes that WSL adds for each address if
// hostAddressLoopback is on, and not at all if it is off, as it is by default
// (src/windows/service/exe/WslMirroredNetworking.cpp). So some without the others
// are wrong, and none are not.
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
		return warning("table 128 has a route to %s, and none to %s", strings.Join(have, ", "), strings.Join(lack, ", ")).
			because("Linux does not reach Windows' servers by that address. A network that has just changed settles within seconds.", "").do(restart)
	}
	return ok("%s", strings.Join(have, ", "))
}

// noHostLoopback is what table 128 means that is empty.
func (o *Observation) noHostLoopback() Check {
	const does = "Windows and Linux do not reach one another by this machine's addresses of the LAN, only by 127.0.0.1"
	switch conf := o.WSLConfig; {
	case conf.Err == nil && conf.Value.HostLoopback:
		return ok("it is empty, and hostAddressLoopback is true in .wslconfig: that is not yet in force").because(does+".", "").do(restart)
	default:
		return ok("it is empty, because hostAddressLoopback is off: %s", does).
			do(`# to change that, in %UserProfile%\.wslconfig, in the section [experimental]: hostAddressLoopback=true`, restart)
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
		// The stricter of "all" and the link's own counts, where 2 (loose) is the
		// larger number and the laxer filter (IN_DEV_RPFILTER of inetdevice.h).
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
		c.Verdict = Warning // the LAN's addresses alone
	}
	if all == strict {
		c.Seen += " (net.ipv4.conf.all.rp_filter=1)"
		c = c.do("sudo sysctl -w net.ipv4.conf.all.rp_filter=0",
			"# and where it is set: grep -rs rp_filter "+sysctlFiles+" /etc/ufw/sysctl.conf")
	}
	for _, name := range set {
		c = c.do("sudo sysctl -w " + text.Word(sysctlKey(name, "rp_filter")) + "=0")
	}
	return c.because("WSL turns this filter off: what comes by "+o.Iface+" has an address of this machine's own as its source, and where several links are mirrored an answer need not come by the one that Linux would take. ufw turns it on.", "")
}

// checkAcceptLocal warns and no more: as long as WSL's ip rules are there, the way
// back to 127.0.0.1 is that of table 127, and the kernel accepts TCP and UDP
// without it (__fib_validate_source in net/ipv4/fib_frontend.c; found out on the
// bench, on Linux 6.18).
func checkAcceptLocal(o *Observation) Check {
	return o.sysctl(Warning, "accept_local", func(c Conf) int { return c.AcceptLocal },
		"WSL sets it, because the source address of what comes from Windows, 127.0.0.1, is one of this machine's own.")
}

func checkRouteLocalnet(o *Observation) Check {
	return o.sysctl(Fault, "route_localnet", func(c Conf) int { return c.RouteLocalnet },
		"Without it the kernel drops what comes for 127.0.0.1 by any link but lo.")
}

// sysctl judges one that WSL sets on loopback0; it counts if "all" is set, too.
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
// pass, and nobody stops those that are forged. "--path direct" sets
// route_localnet there on purpose, and guards.
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
	const why = "A container that forges packets reaches 127.0.0.0/8 by such a link, in Linux and by way of table 127 in Windows (CVE-2020-8558)."
	const start = "sudo systemctl enable --now wslmirror   # it guards them"
	switch {
	case len(open) == 0:
		return ok("no link to containers has route_localnet")
	case !o.active():
		return warning("route_localnet on %s, and no wslmirror guards it", strings.Join(open, ", ")).because(why, "").do(start)
	case o.Ruleset.Err != nil:
		return ok("route_localnet on %s, which an active wslmirror guards", strings.Join(open, ", "))
	}
	if open = slices.DeleteFunc(open, o.Ruleset.Value.Ours.Guards); len(open) > 0 {
		return warning("route_localnet on %s, which wslmirror does not guard", strings.Join(open, ", ")).because(why, "").
			do("sudo systemctl restart wslmirror")
	}
	return ok("wslmirror guards the links to containers, among them those where route_localnet is on")
}

// sysctlKey is the name of a sysctl of a link. sysctl(8) takes dots for
// separators, and in their place a slash for a dot (eth0.100).
func sysctlKey(link, name string) string {
	return "net.ipv4.conf." + strings.ReplaceAll(link, ".", "/") + "." + name
}

// protocols are those that are mirrored.
var protocols = []struct {
	name   string
	number uint8
}{{"tcp", unix.IPPROTO_TCP}, {"udp", unix.IPPROTO_UDP}}
