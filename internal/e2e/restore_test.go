package e2e

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// wslSetup returns WSL's setup in h, without the comments that distinguish restored rules
// from WSL's own.
func wslSetup(t *testing.T, h *lab.Host) string {
	t.Helper()
	var all strings.Builder
	run := func(keep *regexp.Regexp, name string, args ...string) {
		t.Helper()
		out, err := h.Run(name, args...)
		if err != nil && keep != nil {
			t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(out) {
			if keep == nil || keep.MatchString(line) {
				line = strings.ReplaceAll(line, ` comment "restored by wslmirror"`, "")
				lines = append(lines, strings.ReplaceAll(line, " linkdown", "")) // a veth takes a moment to see its carrier
			}
		}
		if keep != nil {
			slices.Sort(lines) // rules of one priority are listed in the order in which they were added
		}
		all.WriteString(strings.Join(lines, ""))
	}
	for _, family := range []string{"ip", "ip6"} {
		for _, chain := range [][2]string{{"filter", "WSLOUTPUT"}, {"nat", "WSLPOSTROUTING"}} {
			run(nil, "nft", "--stateless", "list", "chain", family, chain[0], chain[1])
		}
	}
	run(regexp.MustCompile(`iif |lookup 12[78]|^2:`), "ip", "-4", "rule")
	run(regexp.MustCompile(`^127\.0\.0\.1 `), "ip", "-4", "route", "show", "table", "all")
	run(regexp.MustCompile(`PERMANENT`), "ip", "-4", "neigh", "show", "nud", "permanent", "dev", "loopback0")
	return all.String()
}

// looks returns when the daemon has made a pass after all earlier losses: it removes
// another part, and waits until that part is restored.
func looks(t *testing.T, b *lab.Bench) {
	t.Helper()
	route := func() string {
		out, err := b.WSL.Run("ip", "route", "show", "table", "127")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := route()
	if before == "" {
		t.Fatal("there is no route to lose")
	}
	losses["table 127"](t, b)
	labtest.Eventually(t, "the route is restored", func() bool { return route() == before })
}

func removeBy(commands ...string) func(*testing.T, *lab.Bench) {
	return func(t *testing.T, b *lab.Bench) {
		t.Helper()
		for _, c := range commands {
			args := strings.Fields(c)
			if _, err := b.WSL.Run(args[0], args[1:]...); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Different losses of WSL's setup. Without wslmirror, each is permanent.
var losses = map[string]func(*testing.T, *lab.Bench){
	"chains, by a flush": removeBy("nft flush ruleset"),
	"chains of nat":      removeBy("nft delete table ip nat", "nft delete table ip6 nat"),
	"one chain":          removeBy("nft flush chain ip filter WSLOUTPUT", "nft delete chain ip filter WSLOUTPUT"),
	"rules of chains":    removeBy("iptables -F", "iptables -t nat -F", "ip6tables -F", "ip6tables -t nat -F"),
	"ip rules":           removeBy("ip rule flush"),
	"ip rules at once":   removeBy("ip -4 rule del iif loopback0 ipproto tcp lookup local", "ip -4 rule del pref 1 ipproto udp lookup 127"),
	"table 127":          removeBy("ip route flush table 127"),
	"the link went down": removeBy("ip link set loopback0 down", "ip link set loopback0 up"),
}

func TestRestoresWhatWSLSetUp(t *testing.T) {
	for name, lose := range losses {
		t.Run(name, func(t *testing.T) {
			b := labtest.New(t, lab.Options{})
			want := wslSetup(t, b.WSL)
			lose(t, b)
			if wslSetup(t, b.WSL) == want {
				t.Fatal("nothing was lost")
			}

			b = labtest.New(t, lab.Options{})
			want = wslSetup(t, b.WSL)
			d := start(t, b.WSL)
			d.awaitState(status.Active)
			var last string
			defer func() {
				if t.Failed() {
					t.Logf("it is\n%s\nand was\n%s", last, want)
				}
			}()
			// Twice, because the second time the restored parts are lost.
			for range 2 {
				lose(t, b)
				labtest.Eventually(t, "all is as WSL has set it up", func() bool { last = wslSetup(t, b.WSL); return last == want })
			}
			if marks := strings.Contains(ruleset(t, b.WSL), `comment "restored by wslmirror"`); marks != strings.Contains(name, "chain") {
				t.Errorf("rules with our comment: %v", marks)
			}
			d.stop(unix.SIGTERM)
			if got := wslSetup(t, b.WSL); got != want {
				t.Errorf("after the end of the daemon:\n%s\nwant\n%s", got, want)
			}
			if !strings.Contains(d.log.String(), "restored") {
				t.Errorf("the log does not tell of it:\n%s", d.log)
			}
		})
	}
}

// A container reaches the outside world through WSL's own chain, whatever an engine does to
// its rules.
func TestContainersReachTheLANAfterAFlush(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	if err := b.LAN.Do(func() (err error) {
		l, err = net.Listen("tcp4", "192.0.2.1:7000")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Windows drops packets from outside the block.
	inBlock := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if port := c.RemoteAddr().(*net.TCPAddr).Port; port < int(b.FirstPort) || port > int(b.LastPort) {
				inBlock <- fmt.Errorf("it comes from port %d", port)
			} else {
				inBlock <- nil
			}
			c.Close()
		}
	}()
	ask := func() error {
		c, err := engine.Container.Dial("tcp", "", "192.0.2.1:7000", time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		return <-inBlock
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	losses["chains, by a flush"](t, b)
	if ask() == nil {
		t.Fatal("the container needs no chain of WSL's")
	}
	if err := b.RestoreWSLChains(); err != nil {
		t.Fatal(err)
	}
	start(t, b.WSL).awaitState(status.Active)
	losses["chains, by a flush"](t, b)
	labtest.Eventually(t, "the container reaches the LAN", func() bool { return ask() == nil })
}

// The daemon does not invent what it has not seen, does not restore what it should not, and
// does not treat WSL's own changes as losses.
func TestRestoresNothingElse(t *testing.T) {
	unchanged := func(t *testing.T, d *daemon, b *lab.Bench) {
		t.Helper()
		before := wslSetup(t, b.WSL)
		d.awaitState(status.Active)
		looks(t, b)
		if after := wslSetup(t, b.WSL); after != before {
			t.Errorf("changed\n%s\nto\n%s", before, after)
		}
	}
	t.Run("never seen", func(t *testing.T) {
		b := labtest.New(t, lab.Options{})
		losses["chains, by a flush"](t, b)
		losses["ip rules at once"](t, b)
		unchanged(t, start(t, b.WSL), b)
	})
	t.Run("lost before a restart", func(t *testing.T) {
		b := labtest.New(t, lab.Options{})
		d := start(t, b.WSL)
		d.awaitState(status.Active)
		d.stop(unix.SIGTERM)
		losses["chains, by a flush"](t, b)
		unchanged(t, start(t, b.WSL), b)
	})
	t.Run("without repair", func(t *testing.T) {
		b := labtest.New(t, lab.Options{})
		want := wslSetup(t, b.WSL)
		d := start(t, b.WSL, "--repair=false")
		d.awaitState(status.Active)
		losses["chains, by a flush"](t, b)
		losses["ip rules"](t, b)
		before := wslSetup(t, b.WSL)
		// It still repairs its own table, so it has made a pass in which it could have
		// acted.
		removeBy("nft add table ip another")(t, b)
		d.awaitState(status.Active)
		if after := wslSetup(t, b.WSL); after != before || before == want {
			t.Errorf("changed\n%s\nto\n%s", before, after)
		}
	})
	t.Run("WSL's own changes", func(t *testing.T) {
		b := labtest.New(t, lab.Options{})
		d := start(t, b.WSL)
		d.awaitState(status.Active)
		removeBy("nft flush chain ip nat WSLPOSTROUTING", "ip rule del iif eth0 ipproto tcp lookup local", "ip rule del iif eth0 ipproto udp lookup local")(t, b)
		unchanged(t, d, b)
	})
}

// Someone who removes the same thing repeatedly does so on purpose.
func TestTiresOfRestoring(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	want := wslSetup(t, b.WSL)
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	for range 2 {
		losses["chains, by a flush"](t, b)
		labtest.Eventually(t, "the chains are restored", func() bool { return wslSetup(t, b.WSL) == want })
	}
	losses["chains, by a flush"](t, b)
	looks(t, b)
	if wslSetup(t, b.WSL) == want {
		t.Error("restored for the third time")
	}
	// From here on the daemon knows them again.
	if err := b.RestoreWSLChains(); err != nil {
		t.Fatal(err)
	}
	d.awaitState(status.Active)
	d.stop(unix.SIGTERM)
	if n := strings.Count(d.log.String(), "no longer restored"); n != 1 {
		t.Errorf("the log tells of it %d times:\n%s", n, d.log)
	}
}

// A daemon on standby has also seen WSL's setup.
func TestTakesOverRestoring(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	want := wslSetup(t, b.WSL)
	first := start(t, b.WSL)
	first.awaitState(status.Active)
	second := start(t, b.WSL)
	second.awaitState(status.Standby)
	first.proc.Stop(unix.SIGKILL)
	losses["chains, by a flush"](t, b)
	second.awaitState(status.Active)
	labtest.Eventually(t, "the chains are restored", func() bool { return wslSetup(t, b.WSL) == want })
}
