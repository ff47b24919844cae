package lab_test

import (
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

const loopback0 = "loopback0"

// index is the index of a host's link, 0 if there is none.
func index(h *lab.Host, link string) int {
	l, err := h.Net.LinkByName(link)
	if err != nil {
		return 0
	}
	return l.Attrs().Index
}

func TestLateLoopback0(t *testing.T) {
	b := labtest.New(t, lab.Options{NoLoopback0: true})
	serve(t, b.WSL, linuxPort)
	if index(b.WSL, loopback0) != 0 {
		t.Fatal("loopback0 is there")
	}
	expect(t, b.WSL, linuxPort, "WSL") // by lo
	if err := b.AddLoopback0(); err != nil {
		t.Fatal(err)
	}
	if index(b.WSL, loopback0) == 0 {
		t.Fatal("loopback0 is not there")
	}
	expect(t, b.Windows, linuxPort, "WSL")
	expect(t, b.WSL, linuxPort, "WSL")
	if n, err := b.Returned(); err != nil || n == 0 {
		t.Errorf("Windows returned %d packets, error %v", n, err)
	}
	if err := b.AddLoopback0(); err == nil {
		t.Error("loopback0 can be added twice")
	}
}

func TestLoopback0ComesBack(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	serve(t, b.WSL, linuxPort)
	expect(t, b.Windows, linuxPort, "WSL")
	was := index(b.WSL, loopback0)
	rules := len(ruleNames(t, b.WSL))

	if err := b.RemoveLoopback0(); err != nil {
		t.Fatal(err)
	}
	if index(b.WSL, loopback0) != 0 {
		t.Error("loopback0 is still there")
	}
	if err := b.RemoveLoopback0(); err == nil {
		t.Error("loopback0 can be removed twice")
	}
	if err := b.AddLoopback0(); err != nil {
		t.Fatal(err)
	}
	if is := index(b.WSL, loopback0); is == 0 || is == was {
		t.Errorf("index %d, and before it was %d", is, was)
	}
	if n := len(ruleNames(t, b.WSL)); n != rules {
		t.Errorf("%d rules, and before there were %d", n, rules)
	}
	expect(t, b.Windows, linuxPort, "WSL")
	expect(t, b.WSL, linuxPort, "WSL")
}

func TestLoopback0DownAndUp(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	serve(t, b.WSL, linuxPort)
	was := index(b.WSL, loopback0)
	if err := b.Loopback0Down(); err != nil {
		t.Fatal(err)
	}
	for _, proto := range protos {
		if answer, err := b.Windows.Ask(proto, linuxPort, silence); err == nil {
			t.Errorf("%s: %s answers though loopback0 is down", proto, answer)
		}
	}
	if err := b.Loopback0Up(); err != nil {
		t.Fatal(err)
	}
	if is := index(b.WSL, loopback0); is != was {
		t.Errorf("index %d, and before it was %d", is, was)
	}
	expect(t, b.Windows, linuxPort, "WSL")
	expect(t, b.WSL, linuxPort, "WSL")
}

func ruleNames(t *testing.T, h *lab.Host) []string {
	t.Helper()
	rules, err := h.Net.RuleList(syscall.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range rules {
		names = append(names, r.String())
	}
	return names
}

// ruleset counts the rules of each chain of WSL.
func ruleset(t *testing.T, b *lab.Bench) map[string]int {
	t.Helper()
	c, err := b.WSL.NFT()
	if err != nil {
		t.Fatal(err)
	}
	chains, err := c.ListChains()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, chain := range chains {
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			t.Fatal(err)
		}
		counts[chain.Table.Name+" "+chain.Name] += len(rules)
	}
	return counts
}

// hold adds a table with one chain and one rule to WSL, as a daemon that holds
// it for as long as the test runs.
func hold(t *testing.T, b *lab.Bench, name string, flags nftables.TableFlags) {
	t.Helper()
	c, err := b.WSL.NFT(nftables.AsLasting())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseLasting() })
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name, Flags: flags})
	c.AddRule(&nftables.Rule{Table: table, Chain: c.AddChain(&nftables.Chain{Name: "chain", Table: table})})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestTableFaults(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	hold(t, b, "owned", nftables.TableFlagOwner)
	hold(t, b, "free", 0)

	if err := b.FlushTable(nftables.TableFamilyIPv4, "free"); err != nil {
		t.Error(err)
	}
	if n, ok := ruleset(t, b)["free chain"]; !ok || n != 0 {
		t.Errorf("after a flush the chain has %d rules, there: %t", n, ok)
	}
	if err := b.DeleteTable(nftables.TableFamilyIPv4, "free"); err != nil {
		t.Error(err)
	}
	if _, ok := ruleset(t, b)["free chain"]; ok {
		t.Error("the table is still there")
	}
	for name, want := range map[string]error{"free": syscall.ENOENT, "owned": syscall.EPERM} {
		if err := b.DeleteTable(nftables.TableFamilyIPv4, name); !errors.Is(err, want) {
			t.Errorf("delete %s: error %v, want %v", name, err, want)
		}
		if err := b.FlushTable(nftables.TableFamilyIPv4, name); !errors.Is(err, want) {
			t.Errorf("flush %s: error %v, want %v", name, err, want)
		}
	}
}

func TestFlushRuleset(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	hold(t, b, "owned", nftables.TableFlagOwner)
	var chains []string
	for name, rules := range ruleset(t, b) {
		if rules > 0 {
			chains = append(chains, name)
		}
	}
	slices.Sort(chains)
	if want := []string{"filter WSLOUTPUT", "nat WSLPOSTROUTING", "owned chain"}; !slices.Equal(chains, want) {
		t.Fatalf("chains %q, want %q", chains, want)
	}
	if err := b.FlushRuleset(); err != nil {
		t.Fatal(err)
	}
	if after := ruleset(t, b); len(after) != 1 || after["owned chain"] != 1 {
		t.Errorf("the flush left %v, want only the owned chain and its rule", after)
	}
}
