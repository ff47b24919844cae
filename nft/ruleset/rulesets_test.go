package ruleset

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// record reads a recording of the kernel's answers about a ruleset that a real engine
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
	rs, err := read(recording{r.Chains, r.Rules, r.Sets, r.Elements}, ownTable)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// A recording is a set of answers of a kernel.
type recording struct {
	allChains, allRules, allSets [][]byte
	elements                     map[string][][]byte // by family/table/set
}

func of(family byte, msgs [][]byte) (list [][]byte) {
	for _, m := range msgs {
		if m[0] == family {
			list = append(list, m)
		}
	}
	return list
}

func (recording) tables(byte) ([][]byte, error)          { return nil, nil }
func (r recording) chains(family byte) ([][]byte, error) { return of(family, r.allChains), nil }
func (r recording) sets(family byte) ([][]byte, error)   { return of(family, r.allSets), nil }
func (r recording) rulesOf(t tableID, each func([]byte) bool) error {
	for _, m := range r.allRules {
		if id, err := decodeRuleChain(m); err == nil && id.table == t {
			each(m)
		}
	}
	return nil
}

func (r recording) elementsOf(s setID, each func([]byte) bool) error {
	for _, m := range r.elements[s.table.Family()+"/"+s.table.name+"/"+s.name] {
		each(m)
	}
	return nil
}

func (r recording) element(s setID, key []byte) (found *element, err error) {
	for _, m := range r.allSets {
		id, set, err := decodeSet(m)
		if err != nil || id != s {
			continue
		}
		var elements []element
		_ = r.elementsOf(s, func(m []byte) bool {
			elements, err = appendElements(elements, m)
			return err == nil
		})
		set.fill(elements)
		return set.lookup(key), err
	}
	return nil, nil
}

// lookup does what the kernel does for NFT_MSG_GETSETELEM.
func (s *set) lookup(key []byte) *element {
	for _, e := range s.list {
		switch {
		case e.catchAll != (key == nil):
		case key == nil, e.last == nil && bytes.Equal(e.key, key):
			return &e.element
		case e.last != nil && s.concat:
			inside := true
			for i := 0; i+4 <= len(key); i += 4 {
				inside = inside && bytes.Compare(e.key[i:i+4], key[i:i+4]) <= 0 && bytes.Compare(key[i:i+4], e.last[i:i+4]) <= 0
			}
			if inside {
				return &e.element
			}
		case e.last != nil && bytes.Compare(e.key, key) <= 0 && bytes.Compare(key, e.last) <= 0:
			return &e.element
		}
	}
	return nil
}

// recordedBridges are the engines' bridges at the time of the recording.
var recordedBridges = []Bridge{
	{Iface{"docker0", 5}, []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}},
	{Iface{"podman1", 6}, []netip.Prefix{netip.MustParsePrefix("10.88.0.1/16")}},
}

// The rulesets of real engines are understood: which ports they publish, where to, and
// which of them are engine-served. Each NAME.view has a NAME.nft with the same ruleset
// as nft lists it.
func TestAnalysisOfRealEngines(t *testing.T) {
	files, err := filepath.Glob("testdata/rulesets/*.json")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d rulesets, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			v := record(t, file).Analyse(Iface{Name: "loopback0", Index: 2}, recordedBridges)
			var b strings.Builder
			for _, p := range v.Published {
				path := "proxy"
				switch {
				case p.EngineServed:
					path = "kernel"
				case p.Obstacle != "":
					path = "proxy, since " + string(p.Obstacle)
				case p.Via.Name != "":
					path = "direct by " + p.Via.Name
				}
				fmt.Fprintf(&b, "%s on %s to %s by %s: %s\n", p.Port, p.Addr, p.To, p.Engine, path)
			}
			fmt.Fprintf(&b, "engine-served: %s\n", v.EngineServed)
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
