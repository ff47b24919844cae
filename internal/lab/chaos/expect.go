package chaos

import (
	"fmt"
	"slices"
	"strings"
)

// expected is what wslmirror should have put into the kernel, line by line in
// the form of observed, and judged says whether that can be told: not while the
// daemon that owns the table is stopped, nor what a daemon left that was killed.
func (w *world) expected() []string {
	var want []string
	if !w.serving() {
		return want
	}
	want = append(want, strings.Split(strings.TrimSpace(w.table()), "\n")...)
	want = append(want, "rule: "+ourRule(""))
	for _, b := range w.docker.bridges {
		if w.needed(b) && !b.open {
			want = append(want, "rule: "+ourRule(b.name))
		}
	}
	for _, p := range w.docker.published() {
		if p.addr == localhost && w.docker.rules {
			want = append(want, fmt.Sprintf("accept: ip raw PREROUTING %s %d", p.proto, p.number))
		}
	}
	return want
}

// opened are the bridges that should have route_localnet.
func (w *world) opened() (lines []string) {
	for _, b := range w.allBridges() {
		if b.there && (b.open || w.serving() && w.needed(b)) {
			lines = append(lines, "route_localnet: "+b.name)
		}
	}
	return lines
}

// needed reports whether packets for published ports go directly to a bridge.
func (w *world) needed(b *bridge) bool {
	return slices.ContainsFunc(w.directPorts(), func(p *port) bool { return p.to.bridge == b })
}

// directPorts are the ports that are served past the proxy.
func (w *world) directPorts() []*port {
	if !w.cfg.Direct || !w.docker.rules {
		return nil
	}
	return w.docker.those(func(p *port) bool { return p.mirrored() && p.to.bridge.up })
}

// ourRule is an ip rule of wslmirror's, or its mark for a bridge.
func ourRule(bridge string) string {
	const text = "fwmark 0x1000/0x1000 lookup 255 proto 87"
	if bridge != "" {
		return "32800: iif " + bridge + " " + text
	}
	return "0: " + text
}

// table is our table as nft lists it, with the elements of its sets in order. Replies
// are always marked: a bridge of the canaries is open.
func (w *world) table() string {
	var served, direct, guarded []string
	if w.podman.rules {
		for _, p := range w.podman.published() {
			served = append(served, fmt.Sprintf("%s . %d", p.proto, p.number))
		}
	}
	for _, p := range w.directPorts() {
		direct = append(direct, fmt.Sprintf("%s . %d : %s . 80", p.proto, p.number, p.to.addr.Addr()))
	}
	for _, b := range w.allBridges() {
		if b.there {
			guarded = append(guarded, fmt.Sprintf("%q", b.name))
		}
	}
	guarded = append(guarded, `"eth0"`, `"`+canaryLink+`"`) // eth0 is a veth here, as a container's may be
	elements := func(list []string) string {
		if len(list) == 0 {
			return ""
		}
		slices.Sort(list)
		return "\nelements = { " + strings.Join(list, ", ") + " }"
	}
	var directMap, directRule, directOutput string
	if w.cfg.Direct {
		directMap = "map direct {\ntype inet_proto . inet_service : ipv4_addr . inet_service" + elements(direct) + "\n}\n"
		directRule = `iif "loopback0" ip daddr 127.0.0.1 counter dnat ip to meta l4proto . th dport map @direct comment "past the proxy"` + "\n"
		directOutput = `ip daddr 127.0.0.1 counter dnat ip to meta l4proto . th dport map @direct comment "past the proxy"` + "\n"
	}
	return `table ip wslmirror {
flags owner
` + directMap + `set engine_served {
type inet_proto . inet_service
flags interval` + elements(served) + `
}
set guarded {
type ifname` + elements(guarded) + `
}
chain guard {
type filter hook prerouting priority raw - 1; policy accept;
iif "loopback0" accept comment "from Windows"
ip daddr 127.0.0.0/8 iifname @guarded counter drop comment "to localhost"
ip saddr 127.0.0.0/8 iifname @guarded counter drop comment "as localhost"
}
chain flowmark {
type filter hook prerouting priority mangle; policy accept;
iif != "loopback0" iif != "lo" ct mark & 0x00001000 != 0x00000000 meta mark set meta mark | 0x00001000 comment "a reply to Linux itself"
}
chain WSLPREROUTING {
type nat hook prerouting priority dstnat - 1; policy accept;
iif "loopback0" ip daddr 127.0.0.1 meta l4proto . th dport @engine_served counter accept comment "engine-served"
` + directRule + `iif "loopback0" ip daddr 127.0.0.1 counter dnat to 127.0.0.1 comment "mirrored"
}
chain output {
type nat hook output priority -101; policy accept;
ip saddr 127.0.0.0/8 ct mark set ct mark | 0x00001000 comment "a flow from Linux"
` + directOutput + `}
chain postrouting {
type nat hook postrouting priority srcnat + 1; policy accept;
ip saddr 127.0.0.0/8 oif != "loopback0" oif != "lo" ct status dnat counter masquerade comment "from localhost to a container"
}
}
`
}
