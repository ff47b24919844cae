package e2e

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// Two daemons on one network are two distributions of one VM: one is active, the other is
// on standby and takes over when the first one ends, however it ends.
func TestElection(t *testing.T) {
	for _, end := range []unix.Signal{unix.SIGKILL, unix.SIGTERM} {
		t.Run(unix.SignalName(end), func(t *testing.T) {
			b := labtest.New(t, lab.Options{})
			serves := start(t, b.WSL)
			serves.awaitState(status.Active)
			for range 4 {
				standby := start(t, b.WSL)
				standby.awaitState(status.Standby)
				if _, exit := standby.status(); exit != exitNotActive {
					t.Errorf("status of the standby: exit %d", exit)
				}
				serves.awaitState(status.Active)

				serves.proc.Stop(end)
				gone := time.Now()
				standby.awaitState(status.Active)
				t.Logf("took over in %v", time.Since(gone))
				if !hasTable(t, b.WSL) {
					t.Error("active without a table")
				}
				serves = standby
			}
			serves.stop(unix.SIGTERM)
			if hasTable(t, b.WSL) {
				t.Error("the last one leaves its table")
			}
		})
	}
}

// If another distribution runs the daemon, status in a distribution without one does not
// complain, and says so to root and to any user.
func TestStatusWhereAnotherDistributionServes(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	ask := func(serves bool) {
		t.Helper()
		for user, cmd := range map[string]*exec.Cmd{
			"root":   program(t, "status", "--runtime-dir", t.TempDir()+"/none"),
			"nobody": asNobody(t)("status", "--runtime-dir", "/nonexistent"),
		} {
			code, text := ends(t, b.WSL, cmd)
			if code != exitNotActive || strings.Contains(unfolded(text), "another distribution of this VM runs it") != serves || strings.Contains(text, "may not answer") == serves {
				t.Errorf("%s, exit %d:\n%s", user, code, text)
			}
		}
	}
	ask(false)
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	ask(true)
	d.stop(unix.SIGTERM)
	ask(false)
}

// Among many daemons on standby, one takes over and the others stay calm.
func TestElectionAmongMany(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	daemons := map[*daemon]bool{}
	for range 5 {
		daemons[start(t, b.WSL)] = true
	}
	for len(daemons) > 0 {
		// Wait until every daemon has its state.
		var serves *daemon
		labtest.Eventually(t, "one is active and the others stand by", func() bool {
			var active, standby int
			for d := range daemons {
				switch s, _ := d.status(); s.State {
				case status.Active:
					active++
					serves = d
				case status.Standby:
					standby++
				}
			}
			return active == 1 && standby == len(daemons)-1
		})
		serves.proc.Stop(unix.SIGKILL)
		delete(daemons, serves)
		if log := serves.log.String(); strings.Contains(log, "level=error") || strings.Contains(log, "level=warning") {
			t.Errorf("an election is no trouble, but:\n%s", log)
		}
	}
	if hasTable(t, b.WSL) {
		t.Error("a table is left though all were killed")
	}
}

// A daemon that waits for loopback0 owns no table, so two daemons may wait.
func TestElectionWhenLoopback0Appears(t *testing.T) {
	b := labtest.New(t, lab.Options{NoLoopback0: true})
	one, two := start(t, b.WSL), start(t, b.WSL)
	one.awaitState(status.Waiting)
	two.awaitState(status.Waiting)
	if err := b.AddLoopback0(); err != nil {
		t.Fatal(err)
	}
	one.await("a place", func(s status.Snapshot) bool { return s.State != status.Waiting })
	two.await("a place", func(s status.Snapshot) bool { return s.State != status.Waiting })
	a, _ := one.status()
	z, _ := two.status()
	if a.State == z.State || a.State != status.Active && z.State != status.Active {
		t.Errorf("the two are %s and %s", a.State, z.State)
	}
}

// A daemon that ends leaves its ip rule to the daemon on standby, and busy connections
// continue.
func TestHandOver(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Publish("tcp", "0.0.0.0:8080"); err != nil {
		t.Fatal(err)
	}
	before := world(t, b.WSL)
	var events bytes.Buffer
	monitor := exec.Command("ip", "-4", "monitor", "rule")
	monitor.Stdout = &events
	watch, err := b.WSL.Start(monitor)
	if err != nil {
		t.Fatal(err)
	}
	serves := start(t, b.WSL, "--path", "direct")
	serves.awaitPaths("8080/tcp direct")
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	for _, from := range []*lab.Host{b.Windows, b.WSL} {
		for range 4 {
			c, err := from.Dial("tcp", "", "127.0.0.1:8080", patience)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			busy.Go(func() {
				for ctx.Err() == nil {
					if _, err := c.Ask(patience); err != nil {
						t.Errorf("a busy connection of %s: %v", from.Name, err)
						return
					}
				}
			})
		}
	}
	for range 3 {
		standby := start(t, b.WSL, "--path", "direct")
		standby.awaitState(status.Standby)
		serves.stop(unix.SIGTERM)
		standby.awaitPaths("8080/tcp direct")
		if got := routeLocalnet(t, b.WSL, "docker0"); got != "1" {
			t.Errorf("route_localnet of docker0 is %s", got)
		}
		serves = standby
	}
	cancel()
	busy.Wait()
	if err := watch.Stop(unix.SIGTERM); err == nil {
		t.Error("the monitor ended by itself")
	}
	if s := events.String(); !strings.Contains(s, "0:\tfrom all fwmark") || strings.Contains(s, "Deleted 0:") {
		t.Errorf("what happened to ip rules:\n%s", s)
	}
	serves.stop(unix.SIGTERM)
	if after := world(t, b.WSL); after != before {
		t.Errorf("before\n%s\nafter the last one\n%s", before, after)
	}
}

// A daemon on standby does nothing while the other one is active, and notices its end by
// itself. This test does not request its status, because that would cause a pass.
func TestStandbyIsCalmAndAwake(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	serves := start(t, b.WSL)
	serves.awaitState(status.Active)
	standby := start(t, b.WSL)
	standby.awaitState(status.Standby)
	published := func() status.Snapshot {
		t.Helper()
		s, err := status.Read(standby.dir)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// A daemon that polls would make a pass in this time. The first second may have some,
	// because the last changes of the other daemon are events for both.
	const calm = time.Second
	looks := watchLooks(t, standby.dir)
	labtest.Eventually(t, "a second without a look", func() bool {
		looks()
		time.Sleep(calm)
		return looks() == 0
	})
	serves.proc.Stop(unix.SIGKILL)
	labtest.Eventually(t, "the standby notices the end of the other one", func() bool { return published().State == status.Active })
	if !hasTable(t, b.WSL) {
		t.Error("active without a table")
	}
}
