package packaging

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// The distributions of one VM share one network. If several have enabled the service, one
// is active. When that distribution ends, by "poweroff" or by "wsl --terminate", another
// one takes over, and its holder with it. Their journals contain no warning about that.
func TestDistributionsOfOneVM(t *testing.T) {
	labtest.NeedTree(t)
	deb := pkg(t, packages(t, dist), "deb")
	b := labtest.New(t, lab.Options{})
	standby := boot(t, b, "one", "two", "three")
	before := traces(standby[0])
	for i, s := range standby {
		s.enabled(deb)
		s.await([]status.State{status.Active, status.Standby, status.Standby}[i], 0)
	}

	standby[0].run("nft", byRules)
	awaitHeld(t, standby[0], "at first", "90/tcp", "8090/tcp")

	var serves service
	history := "active" // of the active distribution: the first one was active from the start
	for _, way := range []struct {
		name string
		end  func(*lab.Distro) error
	}{
		{"poweroff", (*lab.Distro).PowerOff},
		{"terminate", (*lab.Distro).Close},
	} {
		i := slices.IndexFunc(standby, func(s service) bool { return s.status().State == status.Active })
		serves = standby[i]
		standby = slices.Delete(standby, i, i+1)
		took, journal := takeOver(t, serves, standby, way.end)
		t.Logf("after %s the next one takes over in %v", way.name, took)
		calm(t, serves.Name, journal)
		if got := states(journal); got != history {
			t.Errorf("%s, which served, came to the states %q, want %q", serves.Name, got, history)
		}
		history = "standby active"
		i = slices.IndexFunc(standby, func(s service) bool { return s.status().State == status.Active })
		awaitHeld(t, standby[i], "after "+way.name, "90/tcp", "8090/tcp")
		if n := len(strings.Fields(heldSockets(standby[i]))); n != 2 {
			t.Errorf("after %s, %d sockets hold two ports", way.name, n)
		}
	}

	// The last one also removes what a terminated distribution could not.
	last := standby[0]
	last.run("nft", "delete table ip hold")
	last.run("systemctl", "stop", "wslmirror")
	sameKernel(t, before, traces(last))
	journal := last.journal()
	calm(t, last.Name, journal)
	if got := states(journal); got != history {
		t.Errorf("%s, the last, came to the states %q, want %q", last.Name, got, history)
	}
}

// takeOver ends the distribution that is active. It returns how long no distribution was
// active, and the last entries of its journal. Exactly one of the others is active then.
func takeOver(t *testing.T, serves service, standby []service, end func(*lab.Distro) error) (time.Duration, []entry) {
	t.Helper()
	table := watchTable(t, serves.bench)
	journal := serves.follow()
	if err := end(serves.Distro); err != nil {
		t.Error(err)
	}
	table.await(t)
	labtest.Eventually(t, "exactly one of the others serves", func() bool {
		var states []string
		for _, s := range standby {
			states = append(states, string(s.status().State))
		}
		slices.Sort(states)
		got := strings.Join(states, " ")
		return got == "active" || got == "active standby"
	})
	return table.gap(t), journal()
}
