package nft

import (
	"errors"
	"testing"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// WSL's chains are restored exactly, including the ports that they masquerade to. They
// are not restored if somebody has changed the rules since they were read.
func TestRestoreChains(t *testing.T) {
	h, _ := host(t)
	chains := func() (chains []ruleset.WSLChain, generation uint32) {
		t.Helper()
		generation = look(t, h, func(r *ruleset.Reader, _ *ruleset.Ruleset) (err error) {
			chains, err = r.WSLChains()
			return err
		})
		return chains, generation
	}
	list := func() string {
		t.Helper()
		out, err := h.Run("nft", "--stateless", "list", "ruleset")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	seen, _ := chains()
	if len(seen) != 4 || !Restorable(seen[0]) {
		t.Fatalf("WSL has %+v", seen)
	}
	load(t, h, "flush ruleset")
	_, generation := chains()
	load(t, h, "table ip somebody { }")
	before := list()
	in(t, h, func() error {
		if err := RestoreChains(seen, generation); !errors.Is(err, ErrChanged) {
			return errors.Join(errors.New("with the generation of before"), err)
		}
		return nil
	})
	if after := list(); after != before {
		t.Errorf("there is\n%s\nand there was\n%s", after, before)
	}
	_, generation = chains()
	in(t, h, func() error { return RestoreChains(seen, generation) })
	again, _ := chains()
	for i, c := range again {
		if len(c.Rules) != len(seen[i].Rules) || c.Hook != seen[i].Hook || c.Priority != seen[i].Priority || c.Type != seen[i].Type {
			t.Errorf("restored %+v, which was %+v", c, seen[i])
		}
		for _, r := range c.Rules {
			if r.Comment != RestoredComment {
				t.Errorf("a rule of %s has the comment %q", c, r.Comment)
			}
		}
	}
	in(t, h, func() error { return RestoreChains(nil, generation) }) // nothing to do
}
