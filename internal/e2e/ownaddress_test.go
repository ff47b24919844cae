package e2e

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// With hostAddressLoopback, Linux reaches a published port on its own LAN address, as it
// does without hostAddressLoopback and without wslmirror.
func TestOwnAddress(t *testing.T) {
	for _, mode := range lab.Modes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{Mode: mode})
			engine, err := b.StartStandIn()
			if err != nil {
				t.Fatal(err)
			}
			for _, proto := range []string{"tcp", "udp"} {
				for _, addr := range []string{"0.0.0.0:8080", "192.0.2.2:8081"} {
					if err := engine.Publish(proto, addr); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := b.WSL.ServeEcho(proto, "192.0.2.2:9000"); err != nil {
					t.Fatal(err)
				}
			}
			check := func(when, own string) {
				t.Helper()
				var clients sync.WaitGroup // some of them wait
				defer clients.Wait()
				for _, proto := range []string{"tcp", "udp"} {
					for port, want := range map[string]string{"8080": own, "8081": own, "9000": "WSL"} {
						clients.Go(func() { asks(t, b, when, b.WSL, proto, "192.0.2.2:"+port, want) })
					}
					for port, want := range map[string]string{"8080": "container", "8081": "container", "9000": "WSL"} {
						clients.Go(func() { asks(t, b, when, b.LAN, proto, "192.0.2.2:"+port, want) })
					}
				}
			}
			hangs, works := "container", "container"
			if mode == lab.MirroredHAL {
				hangs = ""
			}
			before := world(t, b.WSL)
			check("without wslmirror", hangs)
			for _, path := range []string{status.PathProxy, status.PathDirect} {
				for repair, own := range map[string]string{"--repair=true": works, "--repair=false": hangs} {
					d := start(t, b.WSL, "--path", path, repair)
					d.awaitState(status.Active)
					check("path "+path+", "+repair, own)
					if got := d.direction(status.OwnAddress); got.Active != (mode == lab.MirroredHAL && repair == "--repair=true") || got.Active && got.Connections == 0 {
						t.Errorf("path %s, %s: status: %+v", path, repair, got)
					}
					d.stop(unix.SIGTERM)
				}
			}
			check("afterwards", hangs)
			if after := world(t, b.WSL); after != before {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
		})
	}
}

// With hostAddressLoopback, Windows has the LAN address as well. Connections from Windows
// or a container to a published port of that address continue when a daemon starts, when an
// engine begins to serve a port, and when the daemon ends.
func TestConnectionsToTheSharedAddressGoOn(t *testing.T) {
	b := labtest.New(t, lab.Options{Mode: lab.MirroredHAL})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Publish("tcp", "0.0.0.0:8080"); err != nil {
		t.Fatal(err)
	}
	const to = "192.0.2.2:8080"
	open := func(h *lab.Host) *lab.Client {
		t.Helper()
		c, err := h.Dial("tcp", "", to, patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	// The first is used only after the daemon has ended, and so not before.
	conns := map[string]*lab.Client{"Windows": open(b.Windows), "the container": open(engine.Container), "a silent Windows": open(b.Windows)}
	check := func(when string, names ...string) {
		t.Helper()
		for _, name := range names {
			if got, err := conns[name].Ask(patience); got != engine.Container.Name {
				t.Errorf("%s, %s: %q, %v", when, name, got, err)
			}
		}
	}
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	check("when a daemon has started", "Windows", "the container")
	if _, err := b.WSL.Run("nft", `table inet engine {
		chain arriving { type nat hook prerouting priority dstnat; tcp dport 9180 dnat ip to 172.17.0.2:80; }
		chain leaving { type nat hook output priority -100; tcp dport 9180 dnat ip to 172.17.0.2:80; }
	}`); err != nil {
		t.Fatal(err)
	}
	d.await("9180 is served by the kernel", func(s status.Snapshot) bool {
		return slices.ContainsFunc(s.Ports, func(p status.Port) bool { return p.Port == 9180 && p.Path == status.PathKernel })
	})
	check("when an engine serves a port", "Windows", "the container")
	d.stop(unix.SIGTERM)
	check("afterwards", "Windows", "the container", "a silent Windows")
	// Whether a connection survives without its entry is a matter of luck.
	if strings.Contains(d.log.String(), "reset NAT") {
		t.Error("connections that work were evicted")
	}
}

// A client that reuses the source port of a flow from before wslmirror gets an answer at
// once: that flow is reset. A flow that began with wslmirror continues when another daemon
// takes over.
func TestOwnAddressOfAnEarlierFlow(t *testing.T) {
	b := labtest.New(t, lab.Options{Mode: lab.MirroredHAL})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Publish("udp", "0.0.0.0:8080"); err != nil {
		t.Fatal(err)
	}
	const from, to = "192.0.2.2:60900", "192.0.2.2:8080"
	c, err := b.WSL.Dial("udp", from, to, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := c.Ask(patience); err == nil {
		t.Fatalf("without wslmirror %q answers", got)
	}
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	labtest.Eventually(t, "the client is answered", func() bool {
		got, err := c.Ask(patience)
		return err == nil && got == engine.Container.Name
	})
	d.proc.Stop(unix.SIGKILL)
	start(t, b.WSL).awaitState(status.Active)
	if got, err := c.Ask(patience); got != engine.Container.Name {
		t.Errorf("with the next daemon: %q, %v", got, err)
	}
}
