package chaos

import (
	"fmt"
	"slices"
	"strings"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// expected is what wslmirror should have put into the kernel, line by line in
// the form of observed, and judged says whether that can be told: not while the
// daemon that owns the table is stopped, nor what a daemon left that was killed.
func (w *world) expected() []string {
	var want []string
	if !w.serving() {
		return want
	}
	for line := range strings.Lines(w.table()) {
		if line = strings.TrimSpace(line); line != "" {
			want = append(want, line)
		}
	}
	want = append(want, "rule: "+ourRule(""))
	for _, b := range w.allBridges() {
		if w.needed(b) && !b.open {
			want = append(want, "rule: "+ourRule(b.name))
		}
	}
	for _, p := range w.docker.published() {
		if p.addr == localhost && w.docker.rules && !p.excepted() {
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

// needed reports whether a bridge has to let packets of 127.0.0.0/8 pass: those of
// containers to Windows, or those for published ports that go directly to it.
func (w *world) needed(b *bridge) bool {
	return b.up && (w.wsl.block || slices.ContainsFunc(w.directPorts(), func(p *port) bool { return p.to.bridge == b }))
}

// directPorts are the ports that are served past the proxy.
func (w *world) directPorts() []*port {
	if !w.cfg.Direct || !w.docker.rules {
		return nil
	}
	return w.docker.those(func(p *port) bool { return p.mirrored() && p.to.bridge.up && !p.excepted() })
}

// ourRule is an ip rule of wslmirror's, or its mark for a bridge.
func ourRule(bridge string) string {
	const text = "fwmark 0x1000/0x1000 lookup 255 proto 87"
	if bridge != "" {
		return "32800: iif " + bridge + " " + text
	}
	return "0: " + text
}

// A set is a set or map of our table.
type set struct {
	name, typ, flags string
	elements         []string
}

func (s set) String() string {
	text := "set " + s.name + " {\ntype " + s.typ + "\n" + s.flags
	if len(s.elements) > 0 {
		slices.Sort(s.elements)
		text += "elements = { " + strings.Join(s.elements, ", ") + " }\n"
	}
	return text + "}\n"
}

const (
	ports    = "inet_proto . inet_service"
	interval = "flags interval\n"
)

// table is our table as nft lists it, with the elements of its sets in order, and none
// of those that packets fill. Replies are always marked: a bridge of the canaries is
// open.
func (w *world) table() string {
	mirrored, hal := w.cfg.Mode != lab.Consomme, w.cfg.Mode == lab.MirroredHAL
	var served, direct []string
	if w.podman.rules {
		for _, p := range w.podman.published() {
			served = append(served, fmt.Sprintf("%s . %d", p.proto, p.number))
		}
	}
	for _, p := range w.directPorts() {
		direct = append(direct, fmt.Sprintf("%s . %d : %s . 80", p.proto, p.number, p.to.addr.Addr()))
	}
	guarded := []string{`"eth0"`, `"` + canaryLink + `"`} // eth0 is a veth here, as a container's may be
	containers := []string{`"` + canaryLink + `"`}
	addresses := []string{lanAddr, canaryAddr.Addr().String()}
	for _, b := range w.allBridges() {
		if b.there {
			guarded = append(guarded, fmt.Sprintf("%q", b.name))
			addresses = append(addresses, b.addr.Addr().String())
		}
		if b.up {
			containers = append(containers, fmt.Sprintf("%q", b.name))
		}
	}
	windows := []string{fmt.Sprintf("tcp . %d", windowsPort), fmt.Sprintf("udp . %d", windowsUDP)}
	for _, p := range w.contested() {
		if p.to == nil {
			windows = append(windows, fmt.Sprintf("%s . %d", p.proto, p.number))
		}
	}
	if !mirrored {
		addresses = append(addresses, loopback0Addr)
	}
	var b strings.Builder
	// add writes a line if it is there under some condition.
	add := func(when bool, line any) {
		if when {
			fmt.Fprintln(&b, line)
		}
	}
	add(true, "table ip wslmirror {\nflags owner")
	add(w.wsl.block, set{"addresses", "ipv4_addr", "", addresses})
	add(mirrored, set{"answered", "inet_service", "size 65536\nflags dynamic,timeout\ntimeout 1h\n", nil})
	add(mirrored, set{"asked", "inet_service . inet_service", "size 65536\nflags dynamic,timeout\ntimeout 3s500ms\n", nil})
	add(w.wsl.block, set{"containers", "ifname", "", containers})
	add(w.cfg.Direct, "map "+strings.TrimPrefix(set{"direct", ports + " : ipv4_addr . inet_service", "", direct}.String(), "set "))
	add(true, set{"engine_served", ports, interval, served})
	add(w.excepts(), set{"except", ports, interval, []string{"tcp . 8080", "udp . 8080", "udp . 8085"}})
	add(true, set{"guarded", "ifname", "", guarded})
	add(hal, set{"own", "ipv4_addr", "", []string{lanAddr}})
	add(w.wsl.block, set{"windows", ports, interval, windows})

	add(true, "chain guard {\ntype filter hook prerouting priority raw - 1; policy accept;")
	add(mirrored, `iif "loopback0" tcp flags syn,ack / fin,syn,rst,ack update @answered { tcp sport } comment "a port that answers"`)
	add(true, `iif "loopback0" accept comment "from Windows"
ip daddr 127.0.0.0/8 iifname @guarded counter drop comment "to localhost"
ip saddr 127.0.0.0/8 iifname @guarded counter drop comment "as localhost"
}
chain flowmark {
type filter hook prerouting priority mangle; policy accept;
iif != "loopback0" iif != "lo" ct mark & 0x00001000 != 0x00000000 meta mark set meta mark | 0x00001000 comment "a reply to Linux itself"
}
chain WSLPREROUTING {
type nat hook prerouting priority dstnat - 1; policy accept;`)
	const leftAlone = `meta l4proto . th dport @except accept comment "left alone"`
	add(w.excepts(), leftAlone)
	add(true, `iif "loopback0" ip daddr 127.0.0.1 meta l4proto . th dport @engine_served counter accept comment "engine-served"`)
	add(w.cfg.Direct, `iif "loopback0" ip daddr 127.0.0.1 counter dnat ip to meta l4proto . th dport map @direct comment "past the proxy"`)
	add(true, `iif "loopback0" ip daddr 127.0.0.1 counter dnat to 127.0.0.1 comment "mirrored"
}
chain output {
type nat hook output priority -101; policy accept;`)
	add(w.excepts(), leftAlone)
	add(true, `ip saddr 127.0.0.0/8 counter ct mark set ct mark | 0x00001000 comment "a flow from Linux"`)
	add(hal, `ip daddr @own ip saddr @own counter ct mark set ct mark | 0x00001000 comment "from Linux to its own address"`)
	add(w.cfg.Direct, `ip daddr 127.0.0.1 counter dnat ip to meta l4proto . th dport map @direct comment "past the proxy, from Linux"`)
	add(true, "}")
	if w.wsl.block {
		add(true, `chain to_windows {
type nat hook prerouting priority dstnat - 1; policy accept;
iifname @containers ip daddr @addresses meta l4proto . th dport @windows counter dnat to 127.0.0.1 comment "from containers"
}
chain to_windows_source {
type nat hook postrouting priority srcnat - 1; policy accept;`)
		for _, proto := range []string{"tcp", "udp"} {
			add(true, fmt.Sprintf(`oif "loopback0" ip daddr 127.0.0.1 ip saddr != 127.0.0.0/8 ct status dnat meta l4proto %s snat to 127.0.0.1:%d-%d comment "from one of Linux's ports"`,
				proto, w.bench.FirstPort, w.bench.LastPort))
		}
		add(true, "}")
	}
	if mirrored {
		const toWindows = `oif "loopback0" ip daddr 127.0.0.1 `
		const closed = toWindows + `tcp flags syn / fin,syn,rst,ack tcp dport != @answered `
		add(true, "chain refuse {\ntype filter hook output priority security; policy accept;")
		add(w.excepts(), toWindows+leftAlone)
		add(true, closed+`tcp sport . tcp dport @asked counter reject comment "asked again: closed"`)
		add(true, closed+`add @asked { tcp sport . tcp dport } comment "asked once"`+"\n}")
	}
	add(true, "chain postrouting {\ntype nat hook postrouting priority srcnat + 1; policy accept;")
	add(w.excepts(), `meta l4proto . ct original proto-dst @except accept comment "left alone"`)
	add(true, `ip saddr 127.0.0.0/8 oif != "loopback0" oif != "lo" ct status dnat counter masquerade comment "from localhost to a container"
}
}`)
	return b.String()
}
