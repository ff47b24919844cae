package e2e

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

var addrs = map[string]netip.Prefix{
	"eth1": netip.MustParsePrefix("198.51.100.2/24"), "eth2": netip.MustParsePrefix("203.0.113.2/24"),
}

// WSL's own later changes are neither undone nor doubled, and WSL continues with a restored
// chain.
func TestFollowsWSLsOwnChanges(t *testing.T) {
	for name, change := range map[string]func(*lab.Bench) error{
		"a NIC is added":             func(b *lab.Bench) error { return b.AddNIC("eth1", addrs["eth1"]) },
		"a NIC is removed":           func(b *lab.Bench) error { return b.RemoveNIC("eth2") },
		"all NICs are removed":       func(b *lab.Bench) error { return errors.Join(b.RemoveNIC("eth0"), b.RemoveNIC("eth2")) },
		"the block of ports changes": func(b *lab.Bench) error { return b.ChangeBlock(61000, 61299, "eth0", "eth2") },
		"a NIC comes and goes": func(b *lab.Bench) error {
			if err := b.AddNIC("eth1", addrs["eth1"]); err != nil {
				return err
			}
			return b.RemoveNIC("eth1")
		},
	} {
		for _, mode := range []lab.Mode{lab.Mirrored, lab.MirroredHAL} {
			twoNICs := func() *lab.Bench {
				b := labtest.New(t, lab.Options{Mode: mode})
				if err := b.AddNIC("eth2", addrs["eth2"]); err != nil {
					t.Fatal(err)
				}
				return b
			}
			do := func(b *lab.Bench) {
				t.Helper()
				if err := change(b); err != nil {
					t.Fatal(err)
				}
			}
			twin := twoNICs()
			do(twin)
			want := wslSetup(t, twin.WSL)

			for _, order := range []string{"change, flush", "flush, change"} {
				t.Run(name+"/"+mode.String()+"/"+order, func(t *testing.T) {
					b := twoNICs()
					d := start(t, b.WSL)
					d.awaitState(status.Active)
					if order == "change, flush" {
						do(b)
						d.awaitState(status.Active) // it has seen the change
					}
					before := wslSetup(t, b.WSL)
					losses["chains, by a flush"](t, b)
					labtest.Eventually(t, "the chains are restored", func() bool { return wslSetup(t, b.WSL) == before })
					if order == "flush, change" {
						do(b)
					}
					for range 3 { // each answer follows another pass
						d.awaitState(status.Active)
					}
					if got := wslSetup(t, b.WSL); got != want {
						t.Errorf("WSL's chains and rules are\n%s\nwant\n%s", got, want)
					}
					d.stop(unix.SIGTERM)
					if got := wslSetup(t, b.WSL); got != want {
						t.Errorf("after the end of the daemon:\n%s\nwant\n%s", got, want)
					}
				})
			}
		}
	}
}

// WSL gives a new NIC neither its masquerade nor its ip rules if WSL's chains are gone.
func TestNICAfterAFlush(t *testing.T) {
	for _, with := range []bool{false, true} {
		b := labtest.New(t, lab.Options{})
		before := wslSetup(t, b.WSL)
		if with {
			start(t, b.WSL).awaitState(status.Active)
		}
		losses["chains, by a flush"](t, b)
		if with {
			labtest.Eventually(t, "the chains are restored", func() bool { return wslSetup(t, b.WSL) == before })
		}
		if err := b.AddNIC("eth1", addrs["eth1"]); err != nil {
			t.Fatal(err)
		}
		got := wslSetup(t, b.WSL)
		for what, times := range map[string]int{`oif "eth1"`: 4, "iif eth1 ": 2} { // tcp and udp, and IPv6
			if !with {
				times = 0
			}
			if n := strings.Count(got, what); n != times {
				t.Errorf("with wslmirror %v: %d times %q, want %d:\n%s", with, n, what, times, got)
			}
		}
	}
}
