package lab_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

func ipRules(t *testing.T, b *lab.Bench) []string {
	t.Helper()
	out, err := b.WSL.Run("ip", "rule")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(out), "\n")
}

// WSL damages its rules when loopback0 comes again: 17 where there were 11, and one of
// eth0 lost. Repeated, the next one goes, and in the end that of others.
func TestReplugLoopback0(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	serve(t, b.WSL, linuxPort)
	const tcp, udp = "0:\tfrom all iif eth0 ipproto tcp lookup local", "0:\tfrom all iif eth0 ipproto udp lookup local"
	const ours = "0:\tfrom all fwmark 0x1000/0x1000 lookup local"
	before := ipRules(t, b)
	if len(before) != 11 || !slices.Contains(before, tcp) {
		t.Fatalf("rules %q, want 11 with that of eth0", before)
	}
	replug := func() []string {
		t.Helper()
		if err := b.ReplugLoopback0(); err != nil {
			t.Fatal(err)
		}
		return ipRules(t, b)
	}
	if after := replug(); len(after) != 17 || slices.Contains(after, tcp) || !slices.Contains(after, udp) {
		t.Errorf("rules %q, want 17 without that of eth0 for TCP", after)
	}
	expect(t, b.Windows, linuxPort, "WSL")
	expect(t, b.WSL, linuxPort, "WSL")
	if after := replug(); slices.Contains(after, udp) {
		t.Errorf("rules %q, want none of eth0", after)
	}
	if out, err := b.WSL.Run("ip", "rule", "add", "pref", "0", "fwmark", "0x1000/0x1000", "lookup", "local"); err != nil {
		t.Fatal(out, err)
	}
	for range 20 {
		if !slices.ContainsFunc(replug(), func(r string) bool { return strings.HasPrefix(r, ours) }) {
			return
		}
	}
	t.Error("WSL never removes the rule of others")
}

// An interface that comes gets its rules if WSL's chains are there, and none if not.
func TestNICs(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	addr := netip.MustParsePrefix("198.51.100.2/24")
	has := func(rules, masquerades int) {
		t.Helper()
		if n := strings.Count(strings.Join(ipRules(t, b), "\n"), "iif eth1 "); n != rules {
			t.Errorf("%d ip rules of eth1, want %d", n, rules)
		}
		chains, err := b.WSLChains()
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(strings.Join(chains["WSLPOSTROUTING"], "\n"), `oif "eth1"`); n != masquerades {
			t.Errorf("%d masquerades of eth1, want %d: %q", n, masquerades, chains)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(b.AddNIC("eth1", addr))
	has(2, 2)
	do(b.ChangeBlock(50000, 50099, "eth0", "eth1"))
	has(2, 2)
	chains, err := b.WSLChains()
	do(err)
	if rules := chains["WSLPOSTROUTING"]; len(rules) != 4 || strings.Count(strings.Join(rules, "\n"), ":50000-50099") != 4 {
		t.Errorf("WSL's rules after another block: %q", rules)
	}
	do(b.RemoveNIC("eth1"))
	has(0, 0)
	do(b.FlushRuleset())
	do(b.AddNIC("eth1", addr))
	has(0, 0)
	if chains, err := b.WSLChains(); err != nil || len(chains) != 0 {
		t.Errorf("chains %q after a flush, error %v", chains, err)
	}
	do(b.RemoveNIC("eth1"))
}
