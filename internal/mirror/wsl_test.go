package mirror

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

func wslRule(priority uint32, iif string, proto uint8, table uint32) netwatch.Rule {
	return netwatch.Rule{Priority: priority, Action: unix.FR_ACT_TO_TBL, Table: table, Iif: iif, IPProto: proto, SuppressPrefix: -1}
}

// booted is what is observed after WSL has booted, with the links lo, loopback0 and eth0.
func booted() Observed {
	masquerade := func(index byte) ruleset.Rule {
		return ruleset.Rule{Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIF, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{index, 0, 0, 0}}, &expr.Masq{},
		}}
	}
	o := Observed{
		Links: []netwatch.Link{{Name: "lo", Index: 1}, {Name: "loopback0", Index: 2, Up: true}, {Name: "eth0", Index: 3, Up: true}},
		Host:  netwatch.Link{Name: "loopback0", Index: 2, Up: true},
		WSL: WSL{
			Chains: []ruleset.WSLChain{
				{Family: "ip", Table: "nat", Name: "WSLPOSTROUTING", Present: true, Rules: []ruleset.Rule{masquerade(3), masquerade(3)}},
			},
			Route:   netwatch.Route{Table: 127, Link: 2, Via: netip.MustParseAddr("169.254.73.249")},
			Gateway: netwatch.Neighbour{Link: 2, MAC: "000000"},
		},
	}
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		o.WSL.Rules = append(o.WSL.Rules,
			wslRule(0, "loopback0", proto, unix.RT_TABLE_LOCAL), wslRule(0, "eth0", proto, unix.RT_TABLE_LOCAL),
			wslRule(1, "", proto, 127), wslRule(1, "", proto, 128))
	}
	o.WSL.Rules = append(o.WSL.Rules, wslRule(2, "", 0, unix.RT_TABLE_LOCAL))
	return o
}

func without(rules []netwatch.Rule, which func(netwatch.Rule) bool) (list []netwatch.Rule) {
	for _, r := range rules {
		if !which(r) {
			list = append(list, r)
		}
	}
	return list
}

func TestLost(t *testing.T) {
	gone := func(o *Observed) { o.WSL = WSL{} }
	tests := map[string]struct {
		change                func(*Observed)
		chains, rules         int // that are lost
		masquerades           int // rules of the chain that is restored
		index                 byte
		route, gateway, again bool
	}{
		"nothing": {change: func(*Observed) {}},
		"all":     {change: gone, chains: 1, rules: 9, masquerades: 2, index: 3, route: true, gateway: true},
		"all, and a NIC": {change: func(o *Observed) { gone(o); o.Links = o.Links[:2] },
			chains: 1, rules: 7, route: true, gateway: true},
		"all, and a NIC has another index": {change: func(o *Observed) { gone(o); o.Links[2].Index = 9 },
			chains: 1, rules: 9, masquerades: 2, index: 9, route: true, gateway: true},
		"all, and loopback0":         {change: func(o *Observed) { gone(o); o.Host = netwatch.Link{Name: "loopback0"} }},
		"all, and loopback0 is anew": {change: func(o *Observed) { gone(o); o.Host.Index = 9 }, chains: 1, masquerades: 2, index: 3},
		"all, and loopback0 is down": {change: func(o *Observed) { gone(o); o.Host.Up = false }, chains: 1, rules: 9, masquerades: 2, index: 3},
		"rules of a chain":           {change: func(o *Observed) { o.WSL.Chains[0].Rules = nil }},
		"rules of a NIC": {change: func(o *Observed) {
			o.WSL.Rules = without(o.WSL.Rules, func(r netwatch.Rule) bool { return r.Iif == "eth0" })
		}},
		"a rule for localhost": {change: func(o *Observed) {
			o.WSL.Rules = without(o.WSL.Rules, func(r netwatch.Rule) bool { return r.Iif == "loopback0" && r.IPProto == unix.IPPROTO_UDP })
		}, rules: 1},
		"the rules of priority 1": {change: func(o *Observed) {
			o.WSL.Rules = without(o.WSL.Rules, func(r netwatch.Rule) bool { return r.Priority == 1 })
		}, rules: 4},
		"the route": {change: func(o *Observed) { o.WSL.Route = netwatch.Route{} }, route: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var m memory
			m.learn(booted())
			o := booted()
			test.change(&o)
			m.learn(o)
			for range 2 { // to look again changes nothing
				got := m.lost(o)
				if len(got.Chains) != test.chains || len(got.Rules) != test.rules || got.Route.Via.IsValid() != test.route || (got.Gateway.MAC != "") != test.gateway {
					t.Fatalf("lost: %s", got)
				}
				for _, c := range got.Chains {
					if len(c.Rules) != test.masquerades {
						t.Errorf("%d rules", len(c.Rules))
					}
					for _, r := range c.Rules {
						if index := r.Exprs[1].(*expr.Cmp).Data[0]; index != test.index {
							t.Errorf("for link %d", index)
						}
					}
				}
				m.learn(o)
			}
		})
	}
}

// What is lost again and again is forgotten, and each thing for itself.
func TestTires(t *testing.T) {
	var m memory
	now := time.Now()
	all := booted()
	m.learn(all)
	gone := booted()
	gone.WSL = WSL{}
	lost := m.lost(gone)
	for i := range 2 {
		if again, tired := m.tires(lost, now.Add(time.Duration(i)*time.Second)); !tired.empty() || !reflect.DeepEqual(again, lost) {
			t.Fatalf("loss %d: tired of %s", i+1, tired)
		}
	}
	gone.WSL.Rules = all.WSL.Rules
	again, tired := m.tires(m.lost(gone), now.Add(59*time.Second))
	if !again.empty() || len(tired.Chains) != 1 || len(tired.Rules) != 0 || !tired.Route.Via.IsValid() {
		t.Errorf("again %s, tired of %s", again, tired)
	}
	if lost := m.lost(gone); !lost.empty() {
		t.Errorf("it is not forgotten: %s", lost)
	}
	gone.WSL.Rules = nil
	if again, tired := m.tires(m.lost(gone), now.Add(62*time.Second)); !tired.empty() || len(again.Rules) != 9 {
		t.Errorf("after a minute: again %s, tired of %s", again, tired)
	}
	m.learn(all)
	if lost := m.lost(gone); len(lost.Chains) != 1 {
		t.Errorf("it is not known again: %s", lost)
	}
}

// What is missing for a moment may be on its way back.
func TestSettled(t *testing.T) {
	var m memory
	now := time.Now()
	lost := booted().WSL
	for _, step := range []struct {
		after time.Duration
		lost  WSL
		gone  bool
		waits bool
	}{
		{0, WSL{}, false, false}, {time.Hour, lost, false, true}, {time.Hour + settle - 1, lost, false, true},
		{time.Hour + settle, lost, true, false}, {time.Hour + settle + 1, WSL{}, false, false},
		{2 * time.Hour, lost, false, true}, {2*time.Hour + 1, WSL{}, false, false}, {2*time.Hour + settle, lost, false, true},
	} {
		if gone, waits := m.settled(step.lost, now.Add(step.after)); !gone.empty() != step.gone || waits != step.waits {
			t.Errorf("after %v: gone %v, waits %v", step.after, !gone.empty(), waits)
		}
	}
}

// Doubled rules are one, and rules of others are none of WSL's.
func TestWSLRules(t *testing.T) {
	ours := booted().WSL.Rules
	others := []netwatch.Rule{
		ReplyRule, {Priority: 32766, Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_MAIN, SuppressPrefix: -1},
		{Priority: 0, Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_LOCAL, IPProto: unix.IPPROTO_TCP, SuppressPrefix: -1, Other: true},
		{Priority: 1, Action: unix.FR_ACT_TO_TBL, Table: 127, IPProto: unix.IPPROTO_TCP, SuppressPrefix: -1, From: netip.MustParsePrefix("192.0.2.0/24")},
	}
	if got := wslRules(append(append(others, ours...), ours...)); !reflect.DeepEqual(got, ours) {
		t.Errorf("%v", got)
	}
}
