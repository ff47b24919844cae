package nft

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// record reads what the kernel answered about a ruleset that a real engine
// wrote. TestRulesets of package lab makes the files.
func record(t testing.TB, path string) *Ruleset {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Chains, Rules, Sets [][]byte
		Elements            map[string][][]byte // by family/table/set
	}
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	families := map[byte]string{1: "inet", 2: "ip"}
	rs, err := messages{r.Chains, r.Rules, r.Sets, func(family byte, table, set string) ([][]byte, error) {
		return r.Elements[families[family]+"/"+table+"/"+set], nil
	}, true, true}.decode()
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// recordedBridges are those of the engines when they were recorded.
var recordedBridges = []Bridge{
	{Iface{"docker0", 5}, []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}},
	{Iface{"podman1", 6}, []netip.Prefix{netip.MustParsePrefix("10.88.0.1/16")}},
}

// What real engines have written is understood: which ports they publish, where
// to, and which of them the kernel serves. Beside each NAME.view lies NAME.nft,
// the same ruleset as nft lists it.
func TestViewOfRealEngines(t *testing.T) {
	files, err := filepath.Glob("testdata/rulesets/*.json")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d rulesets, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			v := record(t, file).View(Iface{Name: "loopback0", Index: 2}, recordedBridges)
			var b strings.Builder
			for _, p := range v.Published {
				path := "proxy"
				switch {
				case p.Kernel:
					path = "kernel"
				case p.Obstacle != "":
					path = "proxy, since " + string(p.Obstacle)
				case p.Via.Name != "":
					path = "direct by " + p.Via.Name
				}
				fmt.Fprintf(&b, "%s on %s to %s by %s: %s\n", p.Port, p.Addr, p.To, p.Engine, path)
			}
			fmt.Fprintf(&b, "served by the kernel: %s\n", v.Kernel)
			for _, a := range v.Missing {
				fmt.Fprintf(&b, "missing: %s\n", a)
			}
			golden := strings.TrimSuffix(file, ".json") + ".view"
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || b.String() != string(want) {
				t.Errorf("%v; got\n%swant\n%s", err, b.String(), want)
			}
		})
	}
}
