package lab_test

import (
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// Each mode has the rules and addresses that WSL gives it, and plain servers answer,
// from the start and after SetMode.
func TestModes(t *testing.T) {
	want := map[lab.Mode]struct {
		pref0, ofEth0, table128 int
		chains                  bool
		address                 string
	}{
		lab.Mirrored:    {4, 2, 0, true, ""},
		lab.MirroredHAL: {4, 2, 1, true, ""},
		lab.Consomme:    {2, 0, 0, false, "169.254.73.250/28"},
	}
	run := func(t *testing.T, h *lab.Host, args ...string) string {
		t.Helper()
		out, err := h.Run("ip", args...)
		if err != nil && !strings.Contains(out, "table does not exist") {
			t.Fatal(err)
		}
		return out
	}
	check := func(t *testing.T, b *lab.Bench, m lab.Mode) {
		t.Helper()
		w := want[m]
		rules := "\n" + run(t, b.WSL, "rule")
		if n := strings.Count(rules, "\n0:"); n != w.pref0 {
			t.Errorf("%d rules of preference 0, want %d:%s", n, w.pref0, rules)
		}
		if n := strings.Count(rules, "\n0:\tfrom all iif eth0"); n != w.ofEth0 {
			t.Errorf("%d rules of eth0, want %d:%s", n, w.ofEth0, rules)
		}
		if n := strings.Count(rules, "\n1:"); n != 4 {
			t.Errorf("%d rules of preference 1, want 4:%s", n, rules)
		}
		if n := strings.Count(run(t, b.WSL, "route", "show", "table", "128"), "via"); n != w.table128 {
			t.Errorf("%d routes in table 128, want %d", n, w.table128)
		}
		if addr := run(t, b.WSL, "-4", "-o", "addr", "show", "loopback0"); !strings.Contains(addr, w.address) || w.address == "" && addr != "" {
			t.Errorf("loopback0 has %q, want %q", addr, w.address)
		}
		if _, ok := ruleset(t, b)["filter WSLOUTPUT"]; ok != w.chains {
			t.Errorf("WSL's chains are there: %t", ok)
		}
		expect(t, b.Windows, linuxPort, "WSL")
		expect(t, b.WSL, linuxPort, "WSL")
		expect(t, b.WSL, windowsPort, "Windows")
	}
	for _, m := range lab.Modes {
		t.Run(m.String(), func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{Mode: m})
			serve(t, b.WSL, linuxPort)
			serve(t, b.Windows, windowsPort)
			check(t, b, m)
			for _, other := range append(lab.Modes, m) {
				if err := b.SetMode(other); err != nil {
					t.Fatal(err)
				}
				check(t, b, other)
			}
		})
	}
}

func TestModeNames(t *testing.T) {
	for _, m := range lab.Modes {
		text, err := m.MarshalText()
		var back lab.Mode
		if err := back.UnmarshalText(text); err != nil || back != m {
			t.Errorf("%s is read as %s, error %v", text, back, err)
		}
		if err != nil {
			t.Error(err)
		}
	}
	var m lab.Mode
	if err := m.UnmarshalText([]byte("nat")); err == nil {
		t.Error("nat is a mode of the bench")
	}
}
