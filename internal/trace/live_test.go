package trace

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft"
)

// What is counted of packets that the kernel tells of: a line for each hop.
func TestTally(t *testing.T) {
	client, server := netip.MustParseAddrPort("127.0.0.1:50000"), netip.MustParseAddrPort("127.0.0.1:8080")
	const own, accept, drop, goesOn = "ip trace", 1, 0, -1
	head := func(src, dst netip.AddrPort, iif int, first bool) *nft.TraceHead {
		return &nft.TraceHead{Iif: iif, Oif: loopback0, Proto: unix.IPPROTO_TCP, Src: src, Dst: dst, First: first}
	}
	request := func(first bool, more ...nft.TraceEvent) []nft.TraceEvent {
		h := head(client, server, loopback0, first)
		list := []nft.TraceEvent{{Table: own, Chain: nft.Arrives, Handle: 1, Does: goesOn, Head: h}}
		for _, e := range more {
			e.Head = h
			list = append(list, e)
		}
		return list
	}
	fw := func(does nft.TraceVerdict, handle uint64) nft.TraceEvent {
		return nft.TraceEvent{Table: "inet fw", Chain: "in", Handle: handle, Does: does}
	}
	nat := nft.TraceEvent{Table: "ip nat", Chain: "pre", Handle: 3, Does: accept}
	delivered := nft.TraceEvent{Table: own, Chain: nft.Delivered, Does: accept}
	answer := []nft.TraceEvent{
		{Table: own, Chain: nft.Departs, Handle: 4, Does: goesOn, Head: head(server, client, 0, true)},
		{Table: own, Chain: nft.Leaves, Does: accept, Head: head(server, client, 0, true)},
	}
	forecast := Trace{From: Windows, Verdict: Reaches, Hops: []Hop{
		{Kind: Arrives, Link: "loopback0", Sure: true},
		{Kind: InChain, Table: "ip nat", Base: "pre", Chain: "pre", Handle: 3, Verdict: "dnat", To: "127.0.0.1:8080", Comment: "mirrored", Sure: true, nat: true},
		{Kind: InChain, Table: "inet fw", Base: "in", Chain: "in", Handle: 5, Verdict: "accept", Sure: true},
		{Kind: AtSocket, Verdict: "listen", Sure: true},
		{Kind: Leaves, Link: "loopback0", Sure: true, Reply: true},
	}}
	drops := Trace{From: Windows, Verdict: Stops, Hops: []Hop{
		forecast.Hops[0], forecast.Hops[1],
		{Kind: InChain, Table: "inet fw", Base: "in", Chain: "in", Verdict: "drop", Sure: true, Stops: true},
	}}
	unsure := Trace{From: Windows, Verdict: Unknown, Hops: []Hop{{Kind: InChain, Table: "inet fw", Base: "in", Chain: "in", Verdict: "drop"}}}
	const arrived, done = "1 loopback0 arrive", "1 ip nat pre dnat"
	tests := map[string]struct {
		trace  Trace
		events [][]nft.TraceEvent
		want   string // "!" is before what differs
	}{
		"agrees":          {forecast, [][]nft.TraceEvent{request(true, nat, fw(accept, 5), delivered), answer}, "1/1 " + arrived + ", " + done + ", 1 inet fw in accept, 1 deliver, 1 loopback0 leave"},
		"another rule":    {forecast, [][]nft.TraceEvent{request(true, nat, fw(accept, 9), delivered), answer}, "1/1 " + arrived + ", " + done + ", 1 inet fw in accept, 1 deliver, 1 loopback0 leave"},
		"dropped":         {forecast, [][]nft.TraceEvent{request(true, nat, fw(drop, 9))}, "1/0 " + arrived + ", " + done + ", !1 inet fw in drop, 0 , 0 loopback0"},
		"another NAT":     {forecast, [][]nft.TraceEvent{request(true, nft.TraceEvent{Table: "ip nat", Chain: "pre", Handle: 8, Does: accept}, fw(accept, 5), delivered), answer}, "1/1 " + arrived + ", !1 ip nat pre accept, 1 inet fw in accept, 1 deliver, 1 loopback0 leave"},
		"later, no NAT":   {forecast, [][]nft.TraceEvent{request(false, fw(accept, 2), delivered)}, "1/0 " + arrived + ", 0 ip nat pre, 1 inet fw in accept, 1 deliver, 0 loopback0"},
		"lost on the way": {forecast, [][]nft.TraceEvent{request(true, nat)}, "1/0 " + arrived + ", " + done + ", !0 inet fw in, 0 , 0 loopback0"},
		"no answer":       {forecast, [][]nft.TraceEvent{request(true, nat, fw(accept, 5), delivered)}, "1/0 " + arrived + ", " + done + ", 1 inet fw in accept, 1 deliver, !0 loopback0"},
		"a new table":     {forecast, [][]nft.TraceEvent{request(true, nat, nft.TraceEvent{Table: "inet new", Chain: "c", Does: accept}, fw(accept, 5), delivered), answer}, "1/1 " + arrived + ", " + done + ", !1 inet new c pass, 1 inet fw in accept, 1 deliver, 1 loopback0 leave"},
		"drop, forecast":  {drops, [][]nft.TraceEvent{request(true, nat, fw(drop, 0)), request(true, nat, fw(drop, 0))}, "2/0 2 loopback0 arrive, 2 ip nat pre dnat, 2 inet fw in drop"},
		"no drop":         {drops, [][]nft.TraceEvent{request(true, nat, fw(accept, 0), delivered)}, "1/0 " + arrived + ", " + done + ", !1 inet fw in pass, 1 deliver"},
		"may, and does":   {unsure, [][]nft.TraceEvent{request(true, fw(drop, 4))}, "1/0 " + arrived + ", 1 inet fw in drop"},
		"lost event":      {forecast, [][]nft.TraceEvent{append(request(true), fw(drop, 9))}, "1/0 " + arrived + ", !0 ip nat pre, 0 inet fw in, 0 , 0 loopback0"},
		"somebody else's": {forecast, [][]nft.TraceEvent{{fw(drop, 9)}}, "0/0 0 loopback0, 0 ip nat pre, 0 inet fw in, 0 , 0 loopback0"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tally := NewTally(world(), []Question{{Port: http, From: Windows}}, []Trace{test.trace})
			for i, events := range test.events {
				for _, e := range events {
					e.Packet = uint32(i)
					tally.Add(e, e.Table == own)
				}
			}
			l := tally.Result()[0]
			var hops []string
			for _, h := range l.Hops {
				words := fmt.Sprintf("%d %s", h.Packets, strings.Join(strings.Fields(strings.Join([]string{h.Table, h.Chain, h.Verdict}, " ")), " "))
				if h.Kind == Arrives || h.Kind == Leaves {
					words = strings.TrimSpace(fmt.Sprintf("%d %s %s", h.Packets, h.Link, h.Verdict))
				}
				if h.Differs {
					words = "!" + words
				}
				hops = append(hops, words)
			}
			if got := fmt.Sprintf("%d/%d %s", l.Requests, l.Answers, strings.Join(hops, ", ")); got != test.want {
				t.Errorf("counts\n%s, want\n%s", got, test.want)
			}
			if l.Agrees != !strings.Contains(test.want, "!") {
				t.Errorf("agrees: %v", l.Agrees)
			}
		})
	}
}
