package nft

import (
	"errors"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// foreign returns what FindForeignRules finds in h, and the generation.
func foreign(t *testing.T, h *lab.Host, index int) (found ForeignRules, generation uint32) {
	t.Helper()
	generation = look(t, h, func(_ *ruleset.Reader, rs *ruleset.Ruleset) error {
		found = FindForeignRules(rs, ruleset.Iface{Name: "loopback0", Index: index})
		return nil
	})
	return found, generation
}

func load(t *testing.T, h *lab.Host, commands ...string) {
	t.Helper()
	for _, command := range commands {
		if _, err := h.Run("nft", command); err != nil {
			t.Fatal(err)
		}
	}
}

// The rules placed in other programs' tables stop changing, whatever else drops the
// same port. They override nothing that was meant for loopback0.
func TestForeignRulesComeToRest(t *testing.T) {
	h, index := host(t)
	load(t, h,
		"add table ip one",
		"add chain ip one pre { type filter hook prerouting priority raw; }",
		"add rule ip one pre iifname != lo ip daddr 127.0.0.1 tcp dport { 8080, 8081 } drop",
		"add table ip two",
		"add chain ip two pre { type filter hook prerouting priority raw + 1; }",
		"add rule ip two pre iifname loopback0 tcp dport 8080 drop",
		"add rule ip two pre iifname != lo ip daddr 127.0.0.1 tcp dport 8081 drop",
	)
	v, generation := foreign(t, h, index)
	if len(v.Add) != 2 || len(v.Remove) != 0 {
		t.Fatalf("%+v; want one rule for each port", v)
	}
	for round := 0; len(v.Add)+len(v.Remove) > 0; round++ {
		if round == 3 {
			t.Fatalf("does not come to rest: %+v", v)
		}
		in(t, h, func() error { return ForeignChange{Add: v.Add, Remove: v.Remove}.Apply(generation) })
		v, generation = foreign(t, h, index)
	}
	for _, r := range v.Present {
		if r.At.Table() != "one" {
			t.Errorf("a rule of ours: %s", r)
		}
	}
	dropped(t, h, index)
	// When the rules have changed since, a handle may belong to another rule.
	load(t, h, "add table ip three")
	in(t, h, func() error {
		if err := (ForeignChange{Remove: v.Present}).Apply(generation); !errors.Is(err, ErrChanged) {
			t.Errorf("rules that have changed since they were read: %v", err)
		}
		return nil
	})
	if v, generation = foreign(t, h, index); len(v.Present) != 2 {
		t.Errorf("of two rules of ours, these are left: %v", v.Present)
	}
	in(t, h, func() error { return ForeignChange{Remove: v.Present}.Apply(generation) })
	if v, _ = foreign(t, h, index); len(v.Present) != 0 {
		t.Errorf("left behind: %v", v.Present)
	}
}

// dropped checks that a rule that somebody wrote against loopback0 is still in force.
func dropped(t *testing.T, h *lab.Host, index int) {
	t.Helper()
	look(t, h, func(_ *ruleset.Reader, rs *ruleset.Ruleset) error {
		p := ruleset.FromWindows(ruleset.Iface{Name: "loopback0", Index: index})
		for _, o := range rs.Walk(p, ruleset.Sight{}) {
			if o.Fate == ruleset.Dropped && o.At.Table() == "two" && o.Ports.Has(ruleset.Port{Proto: 6, Number: 8080}) {
				return nil
			}
		}
		t.Error("a drop that was meant for loopback0 is overridden")
		return nil
	})
}

// We cannot change a table that another process owns. The other tables are still
// changed.
func TestForeignRuleInATableThatIsOwned(t *testing.T) {
	h, index := host(t)
	load(t, h, "table ip free { chain pre { type filter hook prerouting priority raw; iifname != lo ip daddr 127.0.0.1 tcp dport 8081 drop; }; }")
	owner, err := h.OwnTable("owned", 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	v, generation := foreign(t, h, index)
	if len(v.Add) != 1 || v.Add[0].Port.Number != 8081 || len(v.Barred) != 1 || v.Barred[0].Port.Number != 8080 {
		t.Fatalf("%+v; want 8081 to be added and 8080 to be barred", v)
	}
	in(t, h, func() error { return ForeignChange{Add: v.Add, Remove: v.Remove}.Apply(generation) })
	if v, _ = foreign(t, h, index); len(v.Present) != 1 || len(v.Add) != 0 {
		t.Errorf("then %+v", v)
	}
}

// A rule that closes a port without naming 127.0.0.1 stays in force.
func TestClosedPortStaysClosed(t *testing.T) {
	h, index := host(t)
	load(t, h, "table ip mine { chain pre { type filter hook prerouting priority raw; iifname != lo tcp dport 8002 drop; }; }")
	if v, _ := foreign(t, h, index); len(v.Add)+len(v.Barred) != 0 {
		t.Errorf("%+v", v)
	}
}
