package e2e

import (
	"maps"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// An excepted port behaves as without wslmirror, in every direction, and the other ports
// are repaired.
func TestExcept(t *testing.T) {
	for _, mode := range lab.Modes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{Mode: mode})
			engine, err := b.StartStandIn()
			if err != nil {
				t.Fatal(err)
			}
			for _, proto := range []string{"tcp", "udp"} {
				for _, addr := range []string{"0.0.0.0:8080", "0.0.0.0:8081"} {
					if err := engine.Publish(proto, addr); err != nil {
						t.Fatal(err)
					}
				}
			}
			// As Docker does without a proxy.
			for _, port := range []string{"8082", "8083"} {
				if _, err := b.WSL.ServeEcho("tcp", "0.0.0.0:"+port); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.WSL.Sysctl("ipv4/conf/docker0/route_localnet", "1"); err != nil {
				t.Fatal(err)
			}
			if _, err := b.WSL.Run("nft", `table ip engine {
				chain to { ip daddr 127.0.0.1 tcp dport { 8082, 8083 } dnat to 172.17.0.2:80; }
				chain arriving { type nat hook prerouting priority dstnat; jump to; }
				chain leaving { type nat hook output priority -100; jump to; }
			}`); err != nil {
				t.Fatal(err)
			}
			// see returns what each client gets on each port.
			see := func() map[string]string {
				var mu sync.Mutex
				seen := map[string]string{}
				var clients sync.WaitGroup
				for _, client := range []*lab.Host{b.Windows, b.WSL} {
					for _, port := range []string{"tcp 8080", "udp 8080", "tcp 8081", "udp 8081", "tcp 8082", "tcp 8083"} {
						clients.Go(func() {
							proto, port, _ := strings.Cut(port, " ")
							answer, _ := client.Ask(proto, "127.0.0.1:"+port, silence)
							mu.Lock()
							defer mu.Unlock()
							seen[client.Name+" "+proto+" "+port] = answer
						})
					}
				}
				clients.Go(func() {
					is := connect(b.WSL, "", "127.0.0.1:7999", longer)
					mu.Lock()
					defer mu.Unlock()
					seen["WSL closed"] = is
				})
				clients.Wait()
				return seen
			}
			before := see()
			whole := world(t, b.WSL)
			t.Logf("without wslmirror: %q", before)
			for _, path := range []string{status.PathProxy, status.PathDirect} {
				const excepted = "8080,8082/tcp,7999"
				d := start(t, b.WSL, "--path", path, "--except", excepted)
				d.awaitState(status.Active)
				d.await("the excepted port", func(s status.Snapshot) bool {
					return strings.Contains(paths(s), "8081/tcp "+path) && !strings.Contains(paths(s), "8080/tcp direct")
				})
				for what, got := range see() {
					want := before[what]
					if strings.HasSuffix(what, "8081") || strings.HasSuffix(what, "8083") {
						want = "container"
					}
					if got != want {
						t.Errorf("path %s: %s: %q, want %q", path, what, got, want)
					}
				}
				if n := counted(t, b.WSL, askedAgain); mode != lab.Consomme && n != 0 {
					t.Errorf("path %s: counted %d refusals", path, n)
				}
				d.stop(unix.SIGTERM)
			}
			if after := see(); !maps.Equal(after, before) {
				t.Errorf("before %q, after %q", before, after)
			}
			if after := world(t, b.WSL); after != whole {
				t.Errorf("before\n%s\nafter\n%s", whole, after)
			}
		})
	}
}

// If Docker has written a drop for an excepted port because loopback0 came late, the drop
// stays in effect, even if an earlier daemon has accepted the port's packets.
func TestExceptLateLoopback0(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"8081", "8082"} {
		if err := engine.Publish("tcp", "127.0.0.1:"+port); err != nil {
			t.Fatal(err)
		}
	}
	lateLoopback0(t, b, "8081")
	if _, err := b.WSL.Run("nft", "add rule ip raw PREROUTING iifname != lo ip daddr 127.0.0.1 tcp dport 8082 counter drop"); err != nil {
		t.Fatal(err)
	}
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	answers(t, "without except", b.Windows, "tcp", "8081", "container")
	answers(t, "without except", b.Windows, "tcp", "8082", "container")
	d.proc.Stop(unix.SIGKILL)
	if n := strings.Count(ruleset(t, b.WSL), "wslmirror: from Windows"); n != 2 {
		t.Fatalf("%d rules are left, so nothing is tested", n)
	}

	d = start(t, b.WSL, "--except", "8081")
	d.await("one rule", func(status.Snapshot) bool {
		return strings.Count(ruleset(t, b.WSL), "wslmirror: from Windows") == 1
	})
	answers(t, "excepted", b.Windows, "tcp", "8081", "")
	answers(t, "not excepted", b.Windows, "tcp", "8082", "container")
	d.stop(unix.SIGTERM)
	if list := ruleset(t, b.WSL); strings.Contains(list, "wslmirror") {
		t.Errorf("left behind:\n%s", list)
	}
}
