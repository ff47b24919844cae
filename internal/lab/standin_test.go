package lab_test

import (
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// startStandIn starts the stand-in with the ports that its tests use, the same
// for TCP and UDP.
func startStandIn(t *testing.T, b *lab.Bench) *lab.StandIn {
	t.Helper()
	s, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	for _, proto := range []string{"tcp", "udp"} {
		for _, addr := range []string{"0.0.0.0:8080", "127.0.0.1:8081"} {
			if err := s.Publish(proto, addr); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

// The stand-in has the fault of Docker 20.10, and nothing else.
func TestStandIn(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	s := startStandIn(t, b)
	var asking sync.WaitGroup
	for _, proto := range []string{"tcp", "udp"} {
		for _, port := range []int{8080, 8081} {
			asking.Go(func() {
				if got := outcome(b.Windows, proto, port, hangs); got != hangs {
					t.Errorf("Windows to %s %d: %s, want %s", proto, port, got, hangs)
				}
				if got := outcome(b.WSL, proto, port, "container"); got != "container" {
					t.Errorf("WSL to %s %d: %s", proto, port, got)
				}
			})
		}
		if answer, err := b.WSL.Ask(proto, s.Addr.String()+":80", patience); err != nil || answer != "container" {
			t.Errorf("WSL to the container's own address, %s: answer %q, error %v", proto, answer, err)
		}
		// By Docker's rule, without the proxy.
		if answer, err := b.LAN.Ask(proto, "192.0.2.2:8080", patience); err != nil || answer != "container" {
			t.Errorf("LAN to the container, %s: answer %q, error %v", proto, answer, err)
		}
	}
	asking.Wait()
	for _, bad := range []struct{ proto, addr string }{{"sctp", "0.0.0.0:8082"}, {"tcp", "8082"}, {"tcp", "0.0.0.0:8080"}} {
		if err := s.Publish(bad.proto, bad.addr); err == nil {
			t.Errorf("%s %s can be published", bad.proto, bad.addr)
		}
	}
	if _, err := b.StartStandIn(); err == nil {
		t.Error("a second stand-in can be started")
	}
}

// Each of many clients has its answers, more than one of them.
func TestStandInClients(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	startStandIn(t, b)
	var clients sync.WaitGroup
	for _, proto := range []string{"tcp", "udp"} {
		for range 50 {
			clients.Go(func() {
				c, err := b.WSL.Dial(proto, "", "127.0.0.1:8080", patience)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				for range 3 {
					if answer, err := c.Ask(patience); err != nil || answer != "container" {
						t.Errorf("%s: answer %q, error %v", proto, answer, err)
					}
				}
			})
		}
	}
	clients.Wait()
}

// The proxy passes on that a client has said all, and the answer to that.
func TestStandInHalfClosed(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	startStandIn(t, b)
	expect(t, b.WSL, "127.0.0.1:8080", "container") // now Windows knows the port
	err := b.WSL.Do(func() error {
		c, err := net.DialTimeout("tcp", "127.0.0.1:8080", patience)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, "who are you\n"); err != nil {
			return err
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		if answer, err := io.ReadAll(c); err != nil || string(answer) != "container\n" {
			t.Errorf("answer %q, error %v", answer, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// The stand-in's rules in "ip nat" are what dockerd 20.10 writes, to the letter.
func TestStandInIsTrue(t *testing.T) {
	labtest.NeedTree(t)
	real, standIn := labtest.New(t, lab.Options{}), labtest.New(t, lab.Options{})
	startStandIn(t, standIn)
	labtest.RunContainer(t, labtest.StartDocker(t, real), "container", "0.0.0.0:8080:80", "127.0.0.1:8081:80",
		"0.0.0.0:8080:80/udp", "127.0.0.1:8081:80/udp")
	want, got := natRules(t, real), natRules(t, standIn)
	if !slices.Equal(want, got) {
		t.Errorf("dockerd has\n%s\n\nand the stand-in\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
	for _, key := range []string{
		"ip_forward", "conf/all/route_localnet", "conf/docker0/route_localnet", "conf/docker0/rp_filter", "conf/loopback0/forwarding",
	} {
		want, err := real.WSL.GetSysctl("ipv4/" + key)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := standIn.WSL.GetSysctl("ipv4/" + key); err != nil || got != want {
			t.Errorf("%s is %q, error %v; with dockerd it is %q", key, got, err, want)
		}
	}
}

var counts = regexp.MustCompile(`packets \d+ bytes \d+`)

// natRules returns the rules of the table "ip nat", each with its chain, sorted
// and without those that are there twice: the stand-in publishes the container's
// one port twice. Its nft is the tree's, which has the extensions of iptables.
func natRules(t *testing.T, b *lab.Bench) []string {
	t.Helper()
	tree, err := lab.Tree()
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.WSL.Run("chroot", tree, "nft", "list", "table", "ip", "nat")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	chain := ""
	for line := range strings.Lines(counts.ReplaceAllString(out, "")) {
		line = strings.Join(strings.Fields(line), " ")
		if name, ok := strings.CutPrefix(line, "chain "); ok {
			chain = strings.TrimSuffix(name, " {")
		} else if chain != "" && line != "" && line != "}" {
			lines = append(lines, chain+": "+line)
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}
