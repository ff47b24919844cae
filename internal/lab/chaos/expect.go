package chaos

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/template"

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

// tableText is our table as nft lists it, with none of the elements that packets fill in.
// Replies are always marked: a bridge of the canaries is open.
//
//go:embed table.nft
var tableText string

var tableTemplate = template.Must(template.New("table").Funcs(template.FuncMap{"elements": elements}).Parse(tableText))

// elements are those of a set, in the order in which observed has them.
func elements(list []string) string {
	if len(list) == 0 {
		return ""
	}
	slices.Sort(list)
	return "elements = { " + strings.Join(list, ", ") + " }"
}

// table is our table.
func (w *world) table() string {
	t := struct {
		Mirrored, HAL, Direct, Except, Block                     bool
		FirstPort, LastPort                                      uint16
		Addresses, Containers, Guarded, Served, Targets, Windows []string
	}{
		Mirrored: w.cfg.Mode != lab.Consomme, HAL: w.cfg.Mode == lab.MirroredHAL,
		Direct: w.cfg.Direct, Except: w.excepts(), Block: w.wsl.block,
		FirstPort: w.bench.FirstPort, LastPort: w.bench.LastPort,
		Addresses:  []string{lanAddr, canaryAddr.Addr().String()},
		Containers: []string{strconv.Quote(canaryLink)},
		Guarded:    []string{strconv.Quote(canaryLink), `"eth0"`}, // which is a veth here, as a container's may be
		Windows:    []string{fmt.Sprintf("tcp . %d", windowsPort), fmt.Sprintf("udp . %d", windowsUDP)},
	}
	if !t.Mirrored {
		t.Addresses = append(t.Addresses, loopback0Addr)
	}
	for _, b := range w.allBridges() {
		if b.there {
			t.Addresses = append(t.Addresses, b.addr.Addr().String())
			t.Guarded = append(t.Guarded, strconv.Quote(b.name))
		}
		if b.up {
			t.Containers = append(t.Containers, strconv.Quote(b.name))
		}
	}
	for _, p := range w.contested() {
		if p.to == nil {
			t.Windows = append(t.Windows, p.element())
		}
	}
	for _, e := range w.engines() {
		if e.proxy || !e.rules {
			continue
		}
		for _, p := range e.published() {
			t.Served = append(t.Served, p.element())
		}
	}
	for _, p := range w.directPorts() {
		t.Targets = append(t.Targets, fmt.Sprintf("%s : %s . 80", p.element(), p.to.addr.Addr()))
	}
	var b strings.Builder
	if err := tableTemplate.Execute(&b, t); err != nil {
		panic(err) // the template is wrong
	}
	return b.String()
}

// element is the port as an element of a set.
func (p *port) element() string { return fmt.Sprintf("%s . %d", p.proto, p.number) }
