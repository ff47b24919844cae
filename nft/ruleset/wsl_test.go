package ruleset

import (
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// The block is read only from the rules that WSL writes.
func TestSourcePorts(t *testing.T) {
	b := labtest.New(t, lab.Options{Ports: 4096})
	sourcePorts := func() (ports [2]uint16) {
		t.Helper()
		ports[0], ports[1] = readRules(t, b.WSL).SourcePorts()
		return ports
	}
	if got := sourcePorts(); got != [2]uint16{b.FirstPort, b.LastPort} || b.LastPort == 0 {
		t.Errorf("%d, want %d-%d", got, b.FirstPort, b.LastPort)
	}
	for _, change := range []string{
		"flush chain ip nat WSLPOSTROUTING",
		"add rule ip nat WSLPOSTROUTING masquerade",                                   // without ports
		"add rule ip nat WSLPOSTROUTING meta l4proto tcp snat to 192.0.2.2:1000-2000", // not masqueraded
		"add chain ip nat ANOTHER; add rule ip nat ANOTHER masquerade",                // not WSL's
		"add rule ip nat ANOTHER meta l4proto tcp masquerade to :1000-2000",           // not WSL's
	} {
		if _, err := b.WSL.Run("nft", change); err != nil {
			t.Fatal(err)
		}
		if got := sourcePorts(); got != [2]uint16{} {
			t.Errorf("after %q: %d", change, got)
		}
	}
	if _, err := b.WSL.Run("nft", "add rule ip nat WSLPOSTROUTING meta l4proto tcp masquerade to :1000-2000"); err != nil {
		t.Fatal(err)
	}
	if got := sourcePorts(); got != [2]uint16{1000, 2000} {
		t.Errorf("as nft writes it: %d", got)
	}
}
