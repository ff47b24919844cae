package nft

import (
	"errors"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// The rules that are placed in the tables of others come to rest, whatever else
// drops the same port, and override nothing that was meant for loopback0.
func TestAcceptsComeToRest(t *testing.T) {
	h, index := host(t)
	for _, command := range []string{
		"add table ip one",
		"add chain ip one pre { type filter hook prerouting priority raw; }",
		"add rule ip one pre iifname != lo ip daddr 127.0.0.1 tcp dport { 8080, 8081 } drop",
		"add table ip two",
		"add chain ip two pre { type filter hook prerouting priority raw + 1; }",
		"add rule ip two pre iifname loopback0 tcp dport 8080 drop",
		"add rule ip two pre iifname != lo ip daddr 127.0.0.1 tcp dport 8081 drop",
	} {
		if _, err := h.Run("nft", command); err != nil {
			t.Fatal(err)
		}
	}
	view := func() View {
		t.Helper()
		var v View
		in(t, h, func() error {
			r, err := OpenReader()
			if err != nil {
				return err
			}
			defer r.Close()
			_, rs, err := r.Read()
			if err == nil {
				v = rs.View(Iface{Name: "loopback0", Index: index}, nil)
			}
			return err
		})
		return v
	}
	v := view()
	if len(v.Missing) != 2 || len(v.Surplus) != 0 {
		t.Fatalf("missing %v, surplus %v; want one rule for each port", v.Missing, v.Surplus)
	}
	for round := 0; len(v.Missing)+len(v.Surplus) > 0; round++ {
		if round == 3 {
			t.Fatalf("does not come to rest: missing %v, surplus %v", v.Missing, v.Surplus)
		}
		in(t, h, func() error { return PlaceAccepts(v.Generation, v.Missing, v.Surplus) })
		v = view()
	}
	for _, a := range v.Accepts {
		if a.table.name != "one" {
			t.Errorf("a rule of ours: %s", a)
		}
	}
	dropped(t, h, index)
	// When the rules have changed since, a handle may be that of another's rule.
	if _, err := h.Run("nft", "add table ip three"); err != nil {
		t.Fatal(err)
	}
	in(t, h, func() error {
		if err := PlaceAccepts(v.Generation, nil, v.Accepts); !errors.Is(err, ErrChanged) {
			t.Errorf("rules that have changed since they were read: %v", err)
		}
		return nil
	})
	if v = view(); len(v.Accepts) != 2 {
		t.Errorf("of two rules of ours, these are left: %v", v.Accepts)
	}
	in(t, h, func() error { return PlaceAccepts(v.Generation, nil, v.Accepts) })
	if v = view(); len(v.Accepts) != 0 {
		t.Errorf("left behind: %v", v.Accepts)
	}
}

// dropped checks that what somebody wrote against loopback0 is in force.
func dropped(t *testing.T, h *lab.Host, index int) {
	t.Helper()
	in(t, h, func() error {
		r, err := OpenReader()
		if err != nil {
			return err
		}
		defer r.Close()
		_, rs, err := r.Read()
		if err != nil {
			return err
		}
		p := Packet{Iif: Iface{Name: "loopback0", Index: index}, Src: localhost, Dst: localhost, Ports: PortSet(Port{6, 8080})}
		for _, o := range rs.Walk(p) {
			if o.Fate == Dropped && o.Table == "two" {
				return nil
			}
		}
		t.Error("a drop that was meant for loopback0 is overridden")
		return nil
	})
}
