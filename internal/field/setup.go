package field

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A Setup compares what WSL has set up with what it sets up on the bench, in lines for
// people.
type Setup struct {
	Lines      []string `json:"lines"`  // all that was seen
	Agrees     int      `json:"agrees"` // how many of them
	Missing    []string `json:"missing"`
	Unexpected []string `json:"unexpected"`
	// Beside are ip rules that are not WSL's.
	Beside []string `json:"beside"`
	// NotChecked says what could not be read.
	NotChecked []string `json:"not_checked"`
}

// compareSetup compares what was seen with the model of its mode.
func compareSetup(o *doctor.Observation) (s Setup) {
	skip := func(what string, err error) bool {
		if err != nil {
			s.NotChecked = append(s.NotChecked, fmt.Sprintf("%s: %v", what, err))
		}
		return err != nil
	}
	var want, got []string
	nics := nicsOf(o)
	if n := o.Net.Value; !skip("ip rules, routes, addresses", o.Net.Err) {
		want = append(want, modelNetwork(n, nics)...)
		var lines []string
		lines, s.Beside = network(n, nics)
		got = append(got, lines...)
	}
	if !skip("sysctls", o.Sysctls.Err) {
		want = append(want, modelSysctls(o.Net.Value.Mode, nics)...)
		got = append(got, sysctls(o.Sysctls.Value, o.Net.Value.Mode, nics)...)
	}
	if !skip("source ports", o.Block.Err) {
		want = append(want, modelPorts(o.Net.Value.Mode))
		got = append(got, sourcePorts(o.Block.Value.Range, o.Ruleset.Value.Reserved, o.Net.Value.Mode))
	}
	if !skip("chains", o.Ruleset.Err) {
		want = append(want, modelChains(o.Net.Value.Mode, nics)...)
		got = append(got, chains(o.Ruleset.Value, o.Net.Value)...)
	}
	s.Lines = slices.Sorted(slices.Values(got))
	s.Missing, s.Unexpected = subtract(want, got), subtract(got, want)
	s.Agrees = len(want) - len(s.Missing)
	return s
}

// subtract is a without what is in b, each as often as it is there.
func subtract(a, b []string) (rest []string) {
	b = slices.Clone(b)
	for _, line := range a {
		if i := slices.Index(b, line); i >= 0 {
			b = slices.Delete(b, i, i+1)
			continue
		}
		rest = append(rest, line)
	}
	return rest
}

// named are the links that WSL mirrors, by their names.
var named = regexp.MustCompile(`^eth\d+$`)

// nicsOf are the links that WSL mirrors: those with an address, and those that its ip
// rules name.
func nicsOf(o *doctor.Observation) (nics []string) {
	add := func(name string) {
		if named.MatchString(name) && !slices.Contains(nics, name) {
			nics = append(nics, name)
		}
	}
	for _, l := range o.Net.Value.Links {
		if len(o.Net.Value.Prefixes[l.Index]) > 0 {
			add(l.Name)
		}
	}
	for _, r := range o.Net.Value.Rules {
		if r.Priority == 0 {
			add(r.Iif)
		}
	}
	slices.Sort(nics)
	return nics
}

const loopback0 = status.DefaultInterface

// gateways are where the made-up gateway behind loopback0 is: 169.254.73.249, and
// 169.254.73.152 until WSL 2.8.12.
var gateways = netip.MustParsePrefix("169.254.73.0/24")

const gatewayMAC = "\x00\x11\x22\x33\x44\x55"

// last is the preference of the last of WSL's own rules. Beside them the kernel has two.
const last = 2

// network is what n shows of WSL's.
func network(n doctor.Network, nics []string) (lines, beside []string) {
	for _, r := range n.Rules {
		r.Protocol = 0 // who added it
		line := "ip rule " + r.String()
		if r.Mask == 0 && (r.Priority <= last || r.Priority >= 32766) {
			lines = append(lines, line)
		} else {
			beside = append(beside, line)
		}
	}
	known := map[netip.Addr]bool{}
	for _, r := range n.Routes {
		if r.Table != netwatch.LoopbackTable && r.Table != netwatch.HostTable {
			continue
		}
		via := r.Via.String()
		if gateways.Contains(r.Via) {
			via, known[r.Via] = "the gateway", true
		}
		lines = append(lines, fmt.Sprintf("route of table %d: %s via %s dev %s", r.Table, r.To, via, n.LinkName(r.Link)))
	}
	for _, e := range n.Neighbours {
		name := n.LinkName(e.Link)
		if known[e.Addr] && (name == loopback0 || slices.Contains(nics, name)) {
			mac, state := "another address", "not permanent"
			if e.MAC == gatewayMAC {
				mac = "00:11:22:33:44:55"
			}
			if e.State&unix.NUD_PERMANENT != 0 {
				state = "permanent"
			}
			lines = append(lines, fmt.Sprintf("neighbour: the gateway dev %s is %s, %s", name, mac, state))
		}
	}
	for _, l := range n.Links {
		if l.Name == loopback0 {
			kind := "none"
			for _, p := range n.Prefixes[l.Index] {
				kind = "another"
				if gateways.Contains(p.Addr()) {
					kind = "in " + gateways.String()
				}
			}
			lines = append(lines, "address of loopback0: "+kind)
		}
	}
	return lines, beside
}

// modelNetwork is what WSL sets up in the mode of n (NetworkManager.cpp).
func modelNetwork(n doctor.Network, nics []string) (lines []string) {
	rule := func(pref uint32, iif string, proto uint8, table uint32) {
		r := netwatch.Rule{Priority: pref, Iif: iif, IPProto: proto, Table: table, Action: unix.FR_ACT_TO_TBL, SuppressPrefix: -1}
		lines = append(lines, "ip rule "+r.String())
	}
	from := []string{loopback0}
	if n.Mode.Mirrors() {
		from = append(from, nics...)
	}
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for _, iif := range from {
			rule(0, iif, proto, unix.RT_TABLE_LOCAL)
		}
		rule(1, "", proto, netwatch.LoopbackTable)
		rule(1, "", proto, netwatch.HostTable)
	}
	rule(last, "", 0, unix.RT_TABLE_LOCAL)
	rule(32766, "", 0, unix.RT_TABLE_MAIN)
	rule(32767, "", 0, unix.RT_TABLE_DEFAULT)

	via := func(table int, to netip.Addr, dev string) {
		lines = append(lines, fmt.Sprintf("route of table %d: %s/32 via the gateway dev %s", table, to, dev))
	}
	neighbour := func(dev string) {
		lines = append(lines, fmt.Sprintf("neighbour: the gateway dev %s is 00:11:22:33:44:55, permanent", dev))
	}
	via(netwatch.LoopbackTable, ruleset.Localhost, loopback0)
	neighbour(loopback0)
	if n.Mode == netwatch.MirroredHAL {
		for _, nic := range nics {
			if l := netwatch.Find(n.Links, nic); len(n.Prefixes[l.Index]) > 0 {
				neighbour(nic)
				for _, p := range n.Prefixes[l.Index] {
					via(netwatch.HostTable, p.Addr(), nic)
				}
			}
		}
	}
	kind := "none"
	if n.Mode == netwatch.Consomme {
		kind = "in " + gateways.String()
	}
	return append(lines, "address of loopback0: "+kind)
}

// confs are the sysctls of a link that WSL sets, of those that are read. rp_filter of a
// mirrored link is left alone.
func confs(mode netwatch.Mode, nics []string, each func(link, key string, wants int, of func(doctor.Conf) int)) {
	from := []string{loopback0}
	if mode.Mirrors() {
		from = append(from, nics...)
	}
	for _, link := range from {
		each(link, "accept_local", 1, func(c doctor.Conf) int { return c.AcceptLocal })
		each(link, "route_localnet", 1, func(c doctor.Conf) int { return c.RouteLocalnet })
	}
	for _, link := range []string{"all", loopback0} {
		each(link, "rp_filter", 0, func(c doctor.Conf) int { return c.RPFilter })
	}
}

func sysctl(link, key string, value int) string {
	return fmt.Sprintf("sysctl net.ipv4.conf.%s.%s = %d", link, key, value)
}

func sysctls(seen map[string]doctor.Conf, mode netwatch.Mode, nics []string) (lines []string) {
	confs(mode, nics, func(link, key string, _ int, of func(doctor.Conf) int) {
		lines = append(lines, sysctl(link, key, of(seen[link])))
	})
	return lines
}

func modelSysctls(mode netwatch.Mode, nics []string) (lines []string) {
	confs(mode, nics, func(link, key string, wants int, _ func(doctor.Conf) int) {
		lines = append(lines, sysctl(link, key, wants))
	})
	return lines
}

const sourcesPrefix = "sysctl net.ipv4.ip_local_port_range is "

func sourcePorts(is, block status.PortRange, mode netwatch.Mode) string {
	if mode.Mirrors() && is == block {
		return modelPorts(mode)
	}
	line := fmt.Sprintf(sourcesPrefix+"%d-%d", is.First, is.Last)
	if mode.Mirrors() && block != (status.PortRange{}) {
		line += fmt.Sprintf(", and WSL masquerades to %d-%d", block.First, block.Last)
	}
	return line
}

func modelPorts(mode netwatch.Mode) string {
	if mode.Mirrors() {
		return sourcesPrefix + "the block to which WSL masquerades"
	}
	return sourcesPrefix + "32768-60999" // the kernel's own
}

// chains are WSL's, as far as the model has them.
func chains(r doctor.Ruleset, n doctor.Network) (lines []string) {
	for _, c := range r.WSL {
		if !c.Present {
			continue
		}
		lines = append(lines, fmt.Sprintf("chain %s: type %s, hook %d, priority %d", c, c.Type, c.Hook, c.Priority))
		for _, rule := range c.Rules {
			lines = append(lines, fmt.Sprintf("rule of %s: %s", c, gist(rule, n, r.Reserved)))
		}
	}
	return lines
}

func modelChains(mode netwatch.Mode, nics []string) (lines []string) {
	if !mode.Mirrors() {
		return nil
	}
	for _, family := range []string{"ip", "ip6"} {
		lines = append(lines,
			fmt.Sprintf("chain %s filter WSLOUTPUT: type filter, hook %d, priority 0", family, unix.NF_INET_LOCAL_OUT),
			fmt.Sprintf("rule of %s filter WSLOUTPUT: meta mark set 0x1", family),
			fmt.Sprintf("chain %s nat WSLPOSTROUTING: type nat, hook %d, priority 99", family, unix.NF_INET_POST_ROUTING))
		for _, nic := range nics {
			for _, proto := range []string{"tcp", "udp"} {
				lines = append(lines, fmt.Sprintf("rule of %s nat WSLPOSTROUTING: oif %s %s masquerade to the block", family, nic, proto))
			}
		}
	}
	return lines
}

// gist is what of a rule the model has: the link, the protocol, and what is done.
func gist(r ruleset.Rule, n doctor.Network, block status.PortRange) string {
	var words string
	word := func(format string, args ...any) {
		if words != "" {
			words += " "
		}
		words += fmt.Sprintf(format, args...)
	}
	registers := map[uint32][]byte{}
	const none = expr.MetaKey(1 << 16) // a match of something else
	key := none
	for _, e := range r.Exprs {
		switch x := e.(type) {
		case *expr.Meta:
			if x.SourceRegister {
				word("meta mark set %#x", native(registers[x.Register]))
			}
			key = x.Key
		case *expr.Payload:
			key = none
		case *expr.Cmp:
			switch {
			case key == expr.MetaKeyOIF && x.Op == expr.CmpOpEq:
				word("oif %s", n.LinkName(int(native(x.Data))))
			case key == expr.MetaKeyL4PROTO && x.Op == expr.CmpOpEq && len(x.Data) > 0:
				word("%s", map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[x.Data[0]])
			}
		case *expr.Immediate:
			registers[x.Register] = x.Data
		case *expr.Masq:
			low, high := port(registers[x.RegProtoMin]), port(registers[x.RegProtoMax])
			if x.RegProtoMin != 0 && low == block.First && high == block.Last {
				word("masquerade to the block")
			} else {
				word("masquerade to %d-%d", low, high)
			}
		}
	}
	return words
}

func native(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func port(b []byte) uint16 {
	if len(b) != 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}
