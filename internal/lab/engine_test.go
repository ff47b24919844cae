package lab_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

var update = flag.Bool("update", false, "record the engines' rulesets again")

// The engines beside Docker 20.10, whose rows are in TestFidelity, show with
// nothing of wslmirror running what users report.
func TestEngines(t *testing.T) {
	labtest.NeedTree(t)
	const published, local = 8080, 8081 // on 0.0.0.0 and on 127.0.0.1
	type answers struct{ published, local string }
	works := answers{"all", "local"}
	for _, e := range []struct {
		name           string
		late           bool // loopback0 comes after the engine
		windows        answers
		wslTCP, wslUDP answers
	}{
		// Docker knows of loopback0 and leaves it to the proxy.
		{"docker-iptables", false, works, works, works},
		{"docker-nftables", false, works, works, works},
		// github.com/moby/moby/issues/53382
		{"docker-iptables", true, answers{hangs, hangs}, answers{"all", hangs}, answers{"all", hangs}},
		{"docker-nftables", true, answers{hangs, hangs}, answers{"all", hangs}, answers{"all", hangs}},
		// github.com/moby/moby/issues/53553, since Linux 6.7: see TestFidelity
		{"docker-iptables-noproxy", false, works, answers{resets, resets}, answers{hangs, hangs}},
		{"docker-nftables-noproxy", false, works, answers{resets, resets}, answers{hangs, hangs}},
		// github.com/microsoft/WSL/issues/13868
		{"podman-netavark", false, works, answers{hangs, hangs}, answers{hangs, hangs}},
		{"podman-netavark-nftables", false, works, answers{hangs, hangs}, answers{hangs, hangs}},
		{"podman-cni", false, works, answers{hangs, hangs}, answers{hangs, hangs}},
	} {
		name := e.name
		if e.late {
			name += "-late"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{NoLoopback0: e.late})
			engine := labtest.StartEngine(t, b, e.name)
			// Not one container for both: current Docker with nftables and no
			// proxy adds a rule for each container port, and trips over the
			// second of the same.
			all := labtest.RunContainer(t, engine, "all", fmt.Sprintf("%d:80/tcp", published), fmt.Sprintf("%d:80/udp", published))
			labtest.RunContainer(t, engine, "local", fmt.Sprintf("127.0.0.1:%d:80/tcp", local), fmt.Sprintf("127.0.0.1:%d:80/udp", local))
			// The bridge may have changed its MAC address when the second joined it,
			// and the first answers to the old one for a while.
			if err := b.WSL.Await(all); err != nil {
				t.Fatal(err)
			}
			if e.late {
				if err := b.AddLoopback0(); err != nil {
					t.Fatal(err)
				}
			}
			var asking sync.WaitGroup
			for _, r := range []struct {
				client *lab.Host
				proto  string
				want   answers
			}{
				{b.Windows, "tcp", e.windows},
				{b.Windows, "udp", e.windows},
				{b.WSL, "tcp", e.wslTCP},
				{b.WSL, "udp", e.wslUDP},
			} {
				if r.client == b.WSL && r.want != works && strings.Contains(e.name, "noproxy") && kernelBefore(t, 6, 7) {
					continue
				}
				for port, want := range map[int]string{published: r.want.published, local: r.want.local} {
					asking.Go(func() {
						got := outcome(r.client, r.proto, port, want)
						if got == hangs && want != hangs {
							// On a busy machine the first packet can be lost
							// while the bridge gets to know a new container.
							got = outcome(r.client, r.proto, port, want)
						}
						if got != want {
							t.Errorf("%s to %s 127.0.0.1:%d: %s, want %s", r.client.Name, r.proto, port, got, want)
						}
					})
				}
			}
			asking.Wait()
			if err := engine.Remove("all"); err != nil {
				t.Error(err)
			}
			if got := outcome(b.Windows, "tcp", published, hangs); got == "all" {
				t.Error("a container that was removed answers")
			}
			if err := engine.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// rulesets is where package nft finds what real engines write.
const rulesets = "../../nft/ruleset/testdata/rulesets"

// What package nft is tested with is still what the engines write. With -update
// it is recorded again, by "go test ./internal/lab -run TestRulesets -update".
func TestRulesets(t *testing.T) {
	labtest.NeedTree(t)
	check := func(kind string, late bool) {
		name := kind
		if late {
			name += "-late"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{NoLoopback0: late})
			engine := labtest.StartEngine(t, b, kind)
			for _, c := range []struct{ name, publish string }{
				{"tcp", "0.0.0.0:8080:80/tcp"},
				{"local", "127.0.0.1:8081:80/tcp"},
				{"lan", "192.0.2.2:8082:80/tcp"},
				{"range", "8090-8092:80-82/tcp"},
				// Apart, because Podman 5 takes protocols in any order.
				{"udp", "0.0.0.0:8080:80/udp"},
			} {
				labtest.RunContainer(t, engine, c.name, c.publish)
			}
			if late {
				if err := b.AddLoopback0(); err != nil {
					t.Fatal(err)
				}
			}
			messages, err := b.WSL.ReadRuleset()
			if err != nil {
				t.Fatal(err)
			}
			text, err := b.WSL.ListRuleset()
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join(rulesets, name)
			if *update {
				encoded, err := json.MarshalIndent(messages, "", "\t")
				if err != nil {
					t.Fatal(err)
				}
				for suffix, b := range map[string][]byte{".json": append(encoded, '\n'), ".nft": []byte(text)} {
					if err := os.WriteFile(golden+suffix, b, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				return
			}
			want, err := os.ReadFile(golden + ".nft")
			if err != nil {
				t.Fatal(err)
			}
			if got, want := timeless([]byte(text)), timeless(want); !bytes.Equal(got, want) {
				t.Errorf("%s.nft is not what %s writes; see -update. Now it is:\n%s", golden, kind, got)
			}
		})
	}
	for _, e := range lab.Engines {
		check(e.Name, false)
		if strings.HasPrefix(e.Name, "docker-iptables") || strings.HasPrefix(e.Name, "docker-nftables") {
			check(e.Name, true)
		}
	}
}

// timeless takes out of a ruleset what differs from one run to the next:
// counters, and CNI's names of chains, in which there are containers' numbers.
func timeless(text []byte) []byte {
	text = regexp.MustCompile(`packets \d+ bytes \d+`).ReplaceAll(text, []byte("packets 0 bytes 0"))
	return regexp.MustCompile(`\b(CNI-|CNI-DN-)[0-9a-f]{20,}`).ReplaceAll(text, []byte("${1}0"))
}

// A client in a container has the container's address, and its names.
func TestEnter(t *testing.T) {
	labtest.NeedTree(t)
	for _, kind := range []string{"docker-20.10", "docker-iptables", "podman-netavark", "podman-netavark-nftables", "podman-cni"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{})
			engine := labtest.StartEngine(t, b, kind)
			options, name := []string{"--add-host", "host.docker.internal:host-gateway"}, "host.docker.internal"
			if strings.HasPrefix(kind, "podman") {
				options, name = nil, "host.containers.internal" // which Podman writes itself
			}
			c, err := engine.RunWith("inside", options...)
			if err != nil {
				t.Fatal(err)
			}
			host, names, err := engine.Enter(c)
			if err != nil {
				t.Fatal(err)
			}
			serve(t, b.WSL, "0.0.0.0:9000")
			expect(t, host, c.Gateway.String()+":9000", "WSL")
			expect(t, host, fmt.Sprintf("%s:9000", names[name]), "WSL")
			addrs, err := host.Run("ip", "-4", "-o", "addr", "show", "eth0")
			if err != nil || !strings.Contains(addrs, c.Addr.String()+"/") {
				t.Errorf("eth0 of the container: %s, error %v", addrs, err)
			}
			t.Logf("%s: %s is %s, the gateway %s", kind, name, names[name], c.Gateway)
		})
	}
}
