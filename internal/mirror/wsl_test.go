package mirror

import (
	"io"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

func wslRule(priority uint32, iif string, proto uint8, table uint32) netwatch.Rule {
	return netwatch.Rule{Priority: priority, Action: unix.FR_ACT_TO_TBL, Table: table, Iif: iif, IPProto: proto, SuppressPrefix: -1}
}

// booted returns what is observed after WSL has booted, with the links lo, loopback0 and
// eth0.
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
			{"postrouting", chain{
				WSLChain: ruleset.WSLChain{Present: true, Rules: []ruleset.Rule{masquerade(3), masquerade(3)}},
				links:    map[int]string{1: "lo", 2: "loopback0", 3: "eth0"},
			}},
			{"route", netwatch.Route{Table: 127, Link: 2, Via: netip.MustParseAddr("169.254.73.249")}},
			{"gateway", netwatch.Neighbour{Link: 2, MAC: "000000"}},
		},
	}
	for _, r := range wslRules(bootedRules()) {
		o.WSL = append(o.WSL, part{r.String(), r})
	}
	return o
}

func bootedRules() (rules []netwatch.Rule) {
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		rules = append(rules,
			wslRule(0, "loopback0", proto, unix.RT_TABLE_LOCAL), wslRule(0, "eth0", proto, unix.RT_TABLE_LOCAL),
			wslRule(1, "", proto, 127), wslRule(1, "", proto, 128))
	}
	return append(rules, wslRule(2, "", 0, unix.RT_TABLE_LOCAL))
}

// withoutRules removes the rules for which which is true.
func (o *Observed) withoutRules(which func(netwatch.Rule) bool) {
	o.WSL = o.WSL.without(func(p part) bool {
		r, ok := p.is.(netwatch.Rule)
		return ok && which(r)
	})
}

func TestLost(t *testing.T) {
	gone := func(o *Observed) { o.WSL = nil }
	emptied := func(o *Observed) { o.WSL[0].is = chain{WSLChain: ruleset.WSLChain{Present: true}} }
	rulesOfNIC := func(o *Observed) { o.withoutRules(func(r netwatch.Rule) bool { return r.Iif == "eth0" }) }
	tests := map[string]struct {
		change      func(*Observed)
		lost        string
		masquerades int  // rules of the chain that is restored
		index       byte // index of their link
	}{
		"nothing":                          {change: func(*Observed) {}},
		"all":                              {gone, "postrouting, route, gateway, ip rules: 9", 2, 3},
		"all, and a NIC":                   {func(o *Observed) { gone(o); o.Links = o.Links[:2] }, "postrouting, route, gateway, ip rules: 7", 0, 0},
		"all, and a NIC has another index": {func(o *Observed) { gone(o); o.Links[2].Index = 9 }, "postrouting, route, gateway, ip rules: 9", 2, 9},
		"all, and loopback0":               {func(o *Observed) { gone(o); o.Host = netwatch.Link{Name: "loopback0"} }, "", 0, 0},
		"all, and loopback0 is anew":       {func(o *Observed) { gone(o); o.Host.Index = 9 }, "postrouting", 2, 3},
		"all, and loopback0 is down":       {func(o *Observed) { gone(o); o.Host.Up = false }, "postrouting, ip rules: 9", 2, 3},
		"the rules of a chain":             {emptied, "postrouting", 2, 3},
		"the ip rules of a NIC":            {rulesOfNIC, "", 0, 0},
		"all rules of a NIC":               {func(o *Observed) { emptied(o); rulesOfNIC(o) }, "", 0, 0},
		"the rules, and the link":          {func(o *Observed) { emptied(o); o.Links = o.Links[:2] }, "", 0, 0},
		"a rule for localhost": {func(o *Observed) {
			o.withoutRules(func(r netwatch.Rule) bool { return r.Iif == "loopback0" && r.IPProto == unix.IPPROTO_UDP })
		}, "ip rules: 1", 0, 0},
		"the rules of priority 1": {func(o *Observed) { o.withoutRules(func(r netwatch.Rule) bool { return r.Priority == 1 }) }, "ip rules: 4", 0, 0},
		"the route":               {func(o *Observed) { o.WSL = o.WSL.without(func(p part) bool { return p.name == "route" }) }, "route", 0, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var m memory
			m.learn(booted())
			o := booted()
			test.change(&o)
			for range 2 { // a second observation changes nothing
				m.learn(o)
				missing := m.missing(o)
				if missing.String() != test.lost {
					t.Fatalf("lost: %s", missing)
				}
				for _, p := range missing {
					c, ok := p.is.(chain)
					if !ok {
						continue
					}
					if len(c.Rules) != test.masquerades {
						t.Errorf("%d rules", len(c.Rules))
					}
					for _, r := range c.Rules {
						if index := r.Exprs[1].(*expr.Cmp).Data[0]; index != test.index {
							t.Errorf("for link %d", index)
						}
					}
				}
			}
		})
	}
}

// A part that WSL removes by itself is forgotten, and not restored after a later loss.
func TestLearnsWhatWSLRemoves(t *testing.T) {
	var m memory
	o := booted()
	m.learn(o)
	o.withoutRules(func(r netwatch.Rule) bool { return r.Iif == "eth0" })
	m.learn(o)
	o.WSL = nil
	m.learn(o)
	if got := m.missing(o).String(); got != "postrouting, route, gateway, ip rules: 7" {
		t.Errorf("lost: %s", got)
	}
}

// A part that is lost again and again is forgotten, independently of the others.
func TestTires(t *testing.T) {
	m := memory{losses: map[string][]time.Time{}}
	now := time.Now()
	all, gone := booted(), booted()
	m.learn(all)
	gone.WSL = nil
	lost := m.missing(gone)
	for i := range 2 {
		again, tired := m.tires(lost, now)
		if len(tired) > 0 || !reflect.DeepEqual(again, lost) {
			t.Fatalf("loss %d: tired of %s", i+1, tired)
		}
		m.tires(lost, now) // an attempt that failed because others changed the ruleset does not count
		m.count(again, now.Add(time.Duration(i)*time.Second))
	}
	gone.WSL = all.WSL.without(func(p part) bool { return !isRule(p) })
	if again, tired := m.tires(m.missing(gone), now.Add(59*time.Second)); len(again) > 0 || tired.String() != "postrouting, route, gateway" {
		t.Errorf("again %s, tired of %s", again, tired)
	}
	if missing := m.missing(gone); len(missing) > 0 {
		t.Errorf("it is not forgotten: %s", missing)
	}
	gone.WSL = nil
	if again, tired := m.tires(m.missing(gone), now.Add(62*time.Second)); len(tired) > 0 || again.String() != "ip rules: 9" {
		t.Errorf("after a minute: again %s, tired of %s", again, tired)
	}
	m.learn(all)
	if missing := m.missing(gone); !missing.has("postrouting") {
		t.Errorf("it is not known again: %s", missing)
	}
}

// A part that could not be restored has not been removed once more, so it stays wanted.
func TestFailedRestorationDoesNotCount(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	log := logrus.New()
	log.SetOutput(io.Discard)
	s := newSystem("loopback0", Policy{Repair: true}, log, func() {})
	const noLink = 1 << 20
	lost := WSL{{"a route", netwatch.Route{To: netip.MustParsePrefix("127.0.0.1/32"), Via: netip.MustParseAddr("169.254.73.249"), Link: noLink, Table: netwatch.LoopbackTable}}}
	err := b.WSL.Do(func() error {
		defer s.observer.close()
		obs, err := s.observe(true)
		if err != nil {
			return err
		}
		for range mostLosses + 1 {
			if err := s.restore(obs, lost); err == nil {
				t.Error("a route through a missing link was added")
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if again, tired := s.memory.tires(lost, time.Now()); len(again) != 1 || len(tired) != 0 {
		t.Errorf("again %v, tired %v", again, tired)
	}
}

// A part that is missing for a moment may be about to come back.
func TestSettled(t *testing.T) {
	var m memory
	now := time.Now()
	lost := booted().WSL
	emptied := WSL{{"postrouting", chain{emptied: true}}}
	for _, step := range []struct {
		after time.Duration
		lost  WSL
		gone  bool
		waits bool
	}{
		{0, nil, false, false}, {time.Hour, lost, false, true}, {time.Hour + settle - 1, lost, false, true},
		{time.Hour + settle, lost, true, false}, {time.Hour + settle + 1, nil, false, false},
		{2 * time.Hour, lost, false, true}, {2*time.Hour + 1, nil, false, false}, {2*time.Hour + settle, lost, false, true},
		{3 * time.Hour, nil, false, false}, {4 * time.Hour, emptied, false, true},
		{4*time.Hour + settleEmptied - 1, emptied, false, true}, {4*time.Hour + settleEmptied, emptied, true, false},
	} {
		if gone, waits := m.settled(step.lost, now.Add(step.after)); len(gone) > 0 != step.gone || waits != step.waits {
			t.Errorf("after %v: gone %v, waits %v", step.after, len(gone) > 0, waits)
		}
	}
}

// Rules that exist twice count once, and others' rules do not count as WSL's.
func TestWSLRules(t *testing.T) {
	ours := bootedRules()
	others := []netwatch.Rule{
		ReplyRule, {Priority: 32766, Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_MAIN, SuppressPrefix: -1},
		{Priority: 0, Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_LOCAL, IPProto: unix.IPPROTO_TCP, SuppressPrefix: -1, Other: true},
		{Priority: 1, Action: unix.FR_ACT_TO_TBL, Table: 127, IPProto: unix.IPPROTO_TCP, SuppressPrefix: -1, From: netip.MustParsePrefix("192.0.2.0/24")},
	}
	if got := wslRules(append(append(others, ours...), ours...)); !reflect.DeepEqual(got, ours) {
		t.Errorf("%v", got)
	}
}
