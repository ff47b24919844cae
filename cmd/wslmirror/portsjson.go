package main

import (
	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/windows"
)

// schema is the schema number of each document except that of status (status.Schema). Fields
// may be added under the same number, never renamed or removed: see docs/json.md and
// packaging/schema.
const schema = 1

// The JSON of "ports --json". Unknown values are null or absent.
type (
	portsJSON struct {
		Schema    int             `json:"schema"`
		Mode      string          `json:"mode"`
		Mirrored  bool            `json:"mirrored"`
		Shared    bool            `json:"shared"`
		Daemon    status.State    `json:"daemon_state"`
		Warnings  []warningJSON   `json:"warnings"`
		Listeners []listenerJSON  `json:"listeners"`
		Published []publishedJSON `json:"ports"`
		Block     blockJSON       `json:"block"`
		Windows   windowsJSON     `json:"windows"`
	}
	warningJSON struct {
		Reason string   `json:"reason"`
		Fix    []string `json:"fix"`
	}
	listenerJSON struct {
		Proto   string `json:"proto"`
		Port    uint16 `json:"port"`
		Address string `json:"address"`
		Bound   bool   `json:"bound_only"`
		Program string `json:"program,omitempty"`
		PID     int    `json:"pid,omitempty"`
		Windows string `json:"from_windows"`
	}
	publishedJSON struct {
		status.Port
		Listened bool `json:"listened"`
	}
	blockJSON struct {
		ports.Range
		Size       int           `json:"size"`
		Usable     int           `json:"usable"`
		FirstPass  int           `json:"first_pass"`
		Reserved   []ports.Range `json:"reserved_in_linux"`
		TCP        int           `json:"used_tcp"`
		UDP        int           `json:"used_udp"`
		Containers bool          `json:"containers_counted"`
		Worst      *loadJSON     `json:"worst"`
		Windows    *ports.Range  `json:"reserved_in_windows"`
		Widened    *bool         `json:"widened"`
	}
	loadJSON struct {
		Proto         string  `json:"proto"`
		Destination   string  `json:"destination"`
		Used          int     `json:"used"`
		Of            int     `json:"of"`
		Share         float64 `json:"share"`
		FirstPassLeft int     `json:"first_pass_left"`
	}
	windowsJSON struct {
		TCP      windowsPortsJSON `json:"tcp"`
		UDP      windowsPortsJSON `json:"udp"`
		Problems []string         `json:"problems"`
	}
	windowsPortsJSON struct {
		Excluded  []windows.Range       `json:"excluded"`
		Dynamic   *ports.Range          `json:"dynamic"`
		Listeners []windowsListenerJSON `json:"listeners"`
	}
	windowsListenerJSON struct {
		Port    uint16 `json:"port"`
		Address string `json:"address"`
		PID     uint32 `json:"pid"`
	}
)

func (f portFacts) json() portsJSON {
	out := portsJSON{
		Schema: schema, Mode: f.mode, Mirrored: f.mirrored, Shared: f.shared, Daemon: f.daemon.State,
		Warnings: []warningJSON{}, Listeners: []listenerJSON{}, Published: []publishedJSON{}, // never null
		Block: f.blockJSON(),
		Windows: windowsJSON{
			TCP: windowsPorts(f.windows["tcp"]), UDP: windowsPorts(f.windows["udp"]),
			Problems: f.problems(),
		},
	}
	for _, w := range f.warnings() {
		out.Warnings = append(out.Warnings, warningJSON{w.Text, []string{"# " + w.Next}})
	}
	for _, l := range f.listeners {
		out.Listeners = append(out.Listeners, listenerJSON{
			Proto: l.Proto, Port: l.Addr.Port(), Address: l.Addr.Addr().String(),
			Bound: l.Bound, Program: l.Program, PID: l.PID, Windows: f.fromWindows(l),
		})
	}
	for _, p := range f.daemon.Ports {
		out.Published = append(out.Published, publishedJSON{p, f.listened(p)})
	}
	return out
}

func (f portFacts) blockJSON() blockJSON {
	b := f.block
	out := blockJSON{
		Range: b.Range, Size: b.Size(), Usable: b.Usable, FirstPass: b.FirstPass,
		Reserved: b.Reserved, TCP: b.TCP, UDP: b.UDP, Containers: b.Containers,
	}
	if out.Reserved == nil {
		out.Reserved = []ports.Range{}
	}
	if w := b.Worst; w.Used > 0 {
		out.Worst = &loadJSON{
			Proto: w.Proto, Used: w.Used, Of: w.Of, Share: w.Share(), FirstPassLeft: b.FirstPassLeft(),
		}
		if w.Destination.IsValid() {
			out.Worst.Destination = w.Destination.String()
		}
	}
	if b.Windows != (ports.Range{}) {
		widened := b.Widened()
		out.Windows, out.Widened = &b.Windows, &widened
	}
	return out
}

func windowsPorts(p windows.Ports) (out windowsPortsJSON) {
	if p.ExcludedErr == nil {
		out.Excluded = append([]windows.Range{}, p.Excluded...)
	}
	if p.DynamicErr == nil {
		out.Dynamic = &ports.Range{First: p.Dynamic.First, Last: p.Dynamic.Last}
	}
	if p.ListenersErr == nil {
		out.Listeners = []windowsListenerJSON{}
		for _, l := range p.Listeners {
			out.Listeners = append(out.Listeners, windowsListenerJSON{l.Addr.Port(), l.Addr.Addr().String(), l.PID})
		}
	}
	return out
}
