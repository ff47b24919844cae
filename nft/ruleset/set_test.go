package ruleset

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// Looking up one key gives the same answer as reading all elements.
func TestFindAsElements(t *testing.T) {
	h, _ := host(t)
	for _, command := range []string{
		"table ip t { set hosts { type ipv4_addr; elements = { 127.0.0.1, 127.0.0.3, 10.0.0.1 }; }; }",
		"table ip t { set nets { type ipv4_addr; flags interval; elements = { 127.0.0.0/30, 127.0.0.8-127.0.0.9, 10.0.0.0/8 }; }; }",
		"table ip t { set anything { type ipv4_addr; flags interval; elements = { 0.0.0.0/0 }; }; }",
		"table ip t { set tail { type ipv4_addr; flags interval; elements = { 127.0.0.4-255.255.255.255 }; }; }",
		"table ip t { set pairs { type ipv4_addr . ipv4_addr; elements = { 127.0.0.1 . 127.0.0.1, 127.0.0.1 . 127.0.0.2 }; }; }",
		"table ip t { set ranges { type ipv4_addr . ipv4_addr; flags interval; elements = { 127.0.0.1-127.0.0.3 . 127.0.0.0/30, 127.0.0.5 . 0.0.0.0/0 }; }; }",
		"table ip t { map to { type ipv4_addr : ipv4_addr; elements = { 127.0.0.1 : 10.0.0.1, 127.0.0.2 : 10.0.0.2, * : 10.0.0.3 }; }; }",
		"table ip t { map verdicts { type ipv4_addr : verdict; flags interval; elements = { 127.0.0.0/31 : drop, 127.0.0.4/31 : accept }; }; }",
		"table ip t { set empty { type ipv4_addr; }; }",
	} {
		if _, err := h.Run("nft", command); err != nil {
			t.Fatal(err)
		}
	}
	rs := readRules(t, h)
	if len(rs.sets) < 9 {
		t.Fatalf("%d sets", len(rs.sets))
	}
	r := rand.New(rand.NewPCG(1, 1))
	for id, s := range rs.sets {
		if id.table.name != "t" {
			continue
		}
		all := &set{id: id, interval: s.interval, concat: s.concat}
		rs.readElements(s, mostElements)
		all.fill(s.elements)
		asked, hit := 0, 0
		for range 300 {
			key := bytes.Repeat([]byte{127, 0, 0, 0}, int(s.keyLen)/4)
			for i := 3; i < len(key); i += 4 {
				key[i] = byte(r.IntN(12))
			}
			if r.IntN(20) == 0 {
				key = slices.Repeat([]byte{10, 0, 0, 1}, int(s.keyLen)/4)
			}
			if r.IntN(20) == 0 {
				key = nil // the catch-all
			}
			want := all.lookup(key)
			got, ok := rs.find(s, key)
			switch {
			case !ok:
				t.Fatalf("%s: %v", id.name, rs.failed)
			case (got == nil) != (want == nil):
				t.Errorf("%s: %v is %v, and among the elements %v", id.name, key, got, want)
			case want != nil && (!bytes.Equal(got.value, want.value) || (got.verdict == nil) != (want.verdict == nil) || got.verdict != nil && *got.verdict != *want.verdict):
				t.Errorf("%s: %v is %+v, and among the elements %+v", id.name, key, got, want)
			}
			asked++
			if want != nil {
				hit++
			}
		}
		if id.name != "empty" && (hit == 0 || id.name != "anything" && hit == asked) {
			t.Errorf("%s: %d of %d keys were found: nothing is tested", id.name, hit, asked)
		}
	}
}

// If a set is too large to read, its answer for 127.0.0.1 is still known.
func TestLargeSets(t *testing.T) {
	h, index := host(t)
	if err := h.Blocklist(mostElements + 1); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Run("nft", `table ip t {
	set here { type ipv4_addr; elements = { 127.0.0.1 }; }
	chain pre { type filter hook prerouting priority 0; ip saddr @here tcp dport 80 drop; }
}`); err != nil {
		t.Fatal(err)
	}
	packet := FromWindows(Iface{"loopback0", index})
	checkWalk(t, readRules(t, h), packet, []string{"80/tcp dropped in t pre"})
	if _, err := h.Run("nft", "add element inet blocklist drop_here { 127.0.0.1 }"); err != nil {
		t.Fatal(err)
	}
	checkWalk(t, readRules(t, h), packet, []string{allPorts + " dropped in blocklist arriving"})
}
