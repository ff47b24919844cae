package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// Against random rules of the user, doctor's commands cure the fault that it names: in
// doctor's own view afterwards, and for real packets. One round is enough, except for rules
// that leave it uncertain to which container a port leads.
func TestDoctorMendsRandomRules(t *testing.T) {
	playMirrored(t)
	b := labtest.New(t, lab.Options{Ports: 4096})
	if err := b.WSL.Sysctl("ipv4/tcp_max_tw_buckets", "1"); err != nil { // see traceBench
		t.Fatal(err)
	}
	for _, proto := range []string{"tcp", "udp"} {
		if _, err := b.WSL.ServeEcho(proto, "0.0.0.0:9000"); err != nil {
			t.Fatal(err)
		}
	}
	d := start(t, b.WSL)
	publishes(t, b, d)
	rounds, answered := map[int]int{}, 0
	for seed := range number("WSLMIRROR_RULESETS", 25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rules := loadRandom(t, b, rand.New(rand.NewPCG(uint64(seed), 1)))
			round, got := 0, diagnose(t, b.WSL, d.dir)
			for first := got; ; round++ {
				before := got.faults()
				for _, name := range []string{"input", "output", "forward"} {
					if slices.Contains(before, name) {
						obey(t, b.WSL, got.check(name))
					}
				}
				if len(before) == 0 || slices.Equal(before, []string{"directions"}) {
					break
				}
				if round == 3 {
					t.Fatalf("first %s\nand now %s\n%s", first, got, rules)
				}
				got = diagnose(t, b.WSL, d.dir)
			}
			rounds[round]++
			if got.check("directions").Verdict != doctor.OK {
				return
			}
			answered++
			if err := b.WSL.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }); err != nil {
				t.Fatal(err)
			}
			for _, port := range []string{"8080", "9000"} {
				for _, proto := range []string{"tcp", "udp"} {
					for _, client := range []*lab.Host{b.Windows, b.WSL} {
						if _, err := client.Ask(proto, "127.0.0.1:"+port, patience); err != nil {
							t.Errorf("after %d rounds: %v\n%s", round, err, rules)
						}
					}
				}
			}
		})
	}
	t.Logf("rulesets by the rounds that they took: %v; answered in the end: %d", rounds, answered)
	if rounds[1] <= 4*(rounds[2]+rounds[3]) || answered == 0 {
		t.Errorf("rounds: %v, answered: %d", rounds, answered)
	}
}
