package e2e

import (
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// When loopback0 is removed and added again, WSL damages its own ip rules and in the end
// wslmirror's. wslmirror still keeps its promises.
func TestLoopback0IsReplugged(t *testing.T) {
	for _, mode := range lab.Modes {
		t.Run(mode.String(), func(t *testing.T) {
			b := labtest.New(t, lab.Options{Mode: mode})
			docker, err := b.StartStandIn()
			if err != nil {
				t.Fatal(err)
			}
			for _, proto := range []string{"tcp", "udp"} {
				if err := docker.Publish(proto, "0.0.0.0:8080"); err != nil {
					t.Fatal(err)
				}
			}
			// As Docker does without a proxy: nothing arrives at the socket with which it
			// holds the port.
			if _, err := b.WSL.ServeEcho("tcp", "0.0.0.0:8081"); err != nil {
				t.Fatal(err)
			}
			for _, command := range [][]string{
				{"sysctl", "-q", "net.ipv4.conf.docker0.route_localnet=1"},
				{"nft", `table ip engine {
					chain to { ip daddr 127.0.0.1 tcp dport 8081 dnat to 172.17.0.2:80; }
					chain arriving { type nat hook prerouting priority dstnat; jump to; }
					chain leaving { type nat hook output priority -100; jump to; }
				}`},
			} {
				if _, err := b.WSL.Run(command[0], command[1:]...); err != nil {
					t.Fatal(err)
				}
			}
			d := start(t, b.WSL)
			for i := range 7 {
				if i > 0 {
					if err := b.ReplugLoopback0(); err != nil {
						t.Fatal(err)
					}
				}
				if i > 1 && i < 6 {
					continue // the other five come in a row
				}
				link, err := b.WSL.Net.LinkByName("loopback0")
				if err != nil {
					t.Fatal(err)
				}
				d.await("the new loopback0", func(s status.Snapshot) bool {
					return s.State == status.Active && s.Interface.Index == link.Attrs().Index && paths(s) == "8080/tcp proxy, 8081/tcp kernel, 8080/udp proxy"
				})
				labtest.Eventually(t, "the ip rule of wslmirror is there once", func() bool {
					rules, err := b.WSL.Run("ip", "-4", "rule")
					return err == nil && strings.Count(rules, "fwmark 0x1000/0x1000") == 1
				})
				for _, client := range []*lab.Host{b.Windows, b.WSL} {
					answers(t, "replugged", client, "tcp", "8080", "container")
					answers(t, "replugged", client, "udp", "8080", "container")
					answers(t, "replugged", client, "tcp", "8081", "container")
				}
			}
		})
	}
}
