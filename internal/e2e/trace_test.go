package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/trace"
)

// exitUnknown is the exit code for a forecast that is not certain.
const exitUnknown = 3

// forecasts returns "wslmirror trace --json" in the WSL of a bench, by client.
func forecasts(t *testing.T, b *lab.Bench, args ...string) map[trace.Client]trace.Trace {
	t.Helper()
	cmd := program(t, append([]string{"trace", "--json"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	p, err := b.WSL.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	labtest.WantValid(t, "trace", out.Bytes())
	var all struct{ Traces []trace.Trace }
	if err := json.Unmarshal(out.Bytes(), &all); err != nil || errs.Len() > 0 {
		t.Fatalf("%v, stderr %q, stdout %s", err, errs.String(), out.String())
	}
	want := exitOK
	by := map[trace.Client]trace.Trace{}
	for _, tr := range all.Traces {
		by[tr.From] = tr
		switch {
		case tr.Verdict == trace.Stops:
			want = exitFailure
		case tr.Verdict == trace.Unknown && want == exitOK:
			want = exitUnknown
		}
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("trace %q exits with %d, want %d", args, got, want)
	}
	return by
}

// tell returns the output of "wslmirror trace".
func tell(t *testing.T, b *lab.Bench, args ...string) string {
	t.Helper()
	cmd := program(t, append([]string{"trace"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := b.WSL.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	p.Wait()
	return out.String()
}

// hasProcess gives a container of the stand-in a process, with which trace finds its
// network namespace.
func hasProcess(t *testing.T, c *lab.Host) {
	t.Helper()
	if _, err := c.Start(exec.Command("sleep", "infinity")); err != nil {
		t.Fatal(err)
	}
}

// For each fault, the forecast is what happens, and the suggested commands cure it.
func TestTraceNamesTheFault(t *testing.T) {
	const own = "9000" // the port of a server in Linux
	tests := map[string]struct {
		script         string
		args           []string // the daemon's options; nil: none runs
		port           string
		windows, linux string // part of the reason given; "": it is reachable
	}{
		"nothing":                         {"", []string{}, "8080", "", ""},
		"nothing, direct":                 {"", []string{"--path=direct"}, "8080", "", ""},
		"own server":                      {"", []string{}, own, "", ""},
		"no wslmirror":                    {"", nil, "8080", "sends its answer to itself", ""},
		"no wslmirror, own server":        {"", nil, own, "", ""},
		"output, policy drop":             {`nft 'table inet fw { chain out { type filter hook output priority 0; policy drop; oif "lo" accept; oif "docker0" accept; }; }'`, []string{}, "8080", "the policy of inet fw out drops it", "the policy of inet fw out drops it"},
		"output, to the container":        {`nft 'table inet fw { chain out { type filter hook output priority 0; policy drop; oif { "lo", "loopback0" } accept; }; }'`, []string{}, "8080", "the policy of inet fw out drops it", "the policy of inet fw out drops it"},
		"prerouting, anti-spoofing":       {`nft 'table ip raw { chain pre { type filter hook prerouting priority raw; iif != "lo" ip saddr 127.0.0.0/8 counter drop; }; }'`, []string{}, "8080", "of ip raw pre drops it", "of ip raw pre drops it"},
		"input":                           {`nft 'table inet fw { chain in { type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept; }; }'`, []string{}, own, "the policy of inet fw in drops it", "the policy of inet fw in drops it"},
		"input, new only":                 {`nft 'table inet fw { chain in { type filter hook input priority 0; policy drop; ct state new accept; iif lo accept; }; }'`, []string{}, own, "the policy of inet fw in drops it", "the policy of inet fw in drops it"},
		"forward, past the proxy":         {`nft 'table inet fw { chain f { type filter hook forward priority 0; iif "docker0" ct state established drop; }; }'`, []string{"--path=proxy"}, "8080", "", ""},
		"postrouting, masquerade":         {`nft 'table ip vpn { chain post { type nat hook postrouting priority srcnat - 10; oif != "lo" masquerade; }; }'`, []string{}, own, "", "changes its source"},
		"WSL's rules lost":                {"ip rule del pref 1 ipproto tcp lookup 127", []string{"--repair=false"}, own, "the answer to Windows stays in Linux", ""},
		"way in lost":                     {"ip rule del pref 0 iif loopback0 ipproto tcp lookup local", []string{"--repair=false"}, own, "sent back to Windows", "it loops between Windows and Linux"},
		"forward":                         {`nft 'table inet fw { chain f { type filter hook forward priority 0; oif "docker0" drop; }; }'`, nil, "8080", "of inet fw f drops it", ""},
		"forwarding off":                  {"echo 0 >/proc/sys/net/ipv4/ip_forward", nil, "8080", "forwarding is off on loopback0", ""},
		"no route back":                   {"ip route flush table 127", []string{"--repair=false"}, own, "the answer to Windows stays in Linux", ""},
		"rule of a VPN":                   {"ip route add default dev eth0 table 51820; ip rule add pref 0 not fwmark 0xca6c lookup 51820", []string{"--repair=false"}, own, "is sent to 127.0.0.1 through eth0", "is sent to 127.0.0.1 through eth0"},
		"may":                             {`nft 'table inet fw { chain in { type filter hook input priority 0; iif loopback0 limit rate over 1000/second drop; }; }'`, []string{}, own, "?may drop it", "?may drop it"},
		"route_localnet":                  {"echo 0 >/proc/sys/net/ipv4/conf/loopback0/route_localnet", []string{"--repair=false"}, own, "route_localnet", "route_localnet"},
		"nobody has the port":             {"", []string{}, "9999", "no socket in Linux announces 9999/tcp", "?goes to Windows"},
		"nobody has the port, udp":        {"", []string{}, "9999/udp", "no socket in Linux announces 9999/udp", "?goes to Windows"},
		"udp":                             {"", []string{}, "8080/udp", "", ""},
		"udp, no wslmirror":               {"", nil, "8080/udp", "sends its answer to itself", ""},
		"container listens on another":    {"", []string{}, "8099", "does not listen on 81/tcp, but on 80", "does not listen on 81/tcp, but on 80"},
		"container listens on its own lo": {"", []string{}, "8098", "only on its own 127.0.0.1", "only on its own 127.0.0.1"},
		"container, udp on nothing":       {"", []string{}, "8099/udp", "does not listen on 81/udp, but on 80", "does not listen on 81/udp, but on 80"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{})
			engine, err := b.StartStandIn()
			if err != nil {
				t.Fatal(err)
			}
			hasProcess(t, engine.Container)
			for _, proto := range []string{"tcp", "udp"} {
				if err := engine.Publish(proto, "0.0.0.0:8080"); err != nil {
					t.Fatal(err)
				}
			}
			misPublish(t, b, engine)
			if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:"+own); err != nil {
				t.Fatal(err)
			}
			if test.args != nil {
				d := start(t, b.WSL, test.args...)
				d.await("the ports", func(s status.Snapshot) bool { return s.State == status.Active && len(s.Ports) == 5 })
			}
			if test.script != "" {
				if _, err := b.WSL.Run("sh", "-c", test.script); err != nil {
					t.Fatal(err)
				}
			}
			for round := 0; ; round++ {
				by := forecasts(t, b, test.port)
				mends := ""
				for client, want := range map[trace.Client]string{trace.Windows: test.windows, trace.Linux: test.linux} {
					got := by[client]
					want, unknown := strings.CutPrefix(want, "?")
					verdict := trace.Reaches
					switch {
					case unknown:
						verdict = trace.Unknown
					case want != "" && round == 0:
						verdict = trace.Stops
					}
					if round == 0 && (got.Verdict != verdict || !strings.Contains(got.Why, want)) {
						t.Errorf("from %s it %s: %q; want that it %s: %q\n%s", client, got.Verdict, got.Why, verdict, want, tell(t, b, test.port))
					}
					happens(t, b, client, test.port, got)
					if len(got.Fix) > 0 && mends == "" && strings.HasPrefix(got.Fix[0], "sudo ") {
						mends = strings.TrimPrefix(got.Fix[0], "sudo ")
					}
				}
				if t.Failed() || mends == "" || strings.HasPrefix(mends, "systemctl") || strings.HasPrefix(mends, "wslmirror doctor") {
					break
				}
				if round > 8 {
					t.Fatalf("what it says to type does not mend it\n%s", tell(t, b, test.port))
				}
				if _, err := b.WSL.Run("sh", "-c", mends); err != nil {
					t.Fatalf("it says %q: %v", mends, err)
				}
			}
		})
	}
}

// misPublish publishes ports on which the container does not listen.
func misPublish(t *testing.T, b *lab.Bench, engine *lab.StandIn) {
	t.Helper()
	if _, err := engine.Container.ServeEcho("tcp", "127.0.0.1:82"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct{ proto, at, to string }{{"tcp", "8099", "81"}, {"udp", "8099", "81"}, {"tcp", "8098", "82"}} {
		proxy, err := b.WSL.Proxy(p.proto, "0.0.0.0:"+p.at, fmt.Sprintf("%s:%s", engine.Addr, p.to))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { proxy.Close() })
		rule := fmt.Sprintf("nft add rule ip nat DOCKER iifname != docker0 %s dport %s dnat to %s:%s", p.proto, p.at, engine.Addr, p.to)
		if _, err := b.WSL.Run("sh", "-c", rule); err != nil {
			t.Fatal(err)
		}
	}
}

// happens fails the test unless the forecast happens.
func happens(t *testing.T, b *lab.Bench, client trace.Client, port string, f trace.Trace) {
	t.Helper()
	if f.Verdict == trace.Unknown {
		return
	}
	h := map[trace.Client]*lab.Host{trace.Windows: b.Windows, trace.Linux: b.WSL}[client]
	number, proto, udp := strings.Cut(port, "/")
	if !udp {
		proto = "tcp"
	}
	wait := patience
	if f.Verdict == trace.Stops {
		wait = 300 * time.Millisecond
	}
	answer, err := h.Ask(proto, "127.0.0.1:"+number, wait)
	if (err == nil) != (f.Verdict == trace.Reaches) {
		t.Errorf("from %s it %s (%s), but: %q, %v\n%s", client, f.Verdict, f.Why, answer, err, tell(t, b, port))
	}
}

// From the LAN and from a container, with the names and marks of real engines.
func TestTraceWithEngines(t *testing.T) {
	for _, test := range []struct {
		engine string
		args   []string
		path   string // the port's path
		// The verdicts without wslmirror and with it; "": not checked.
		windows, linux [2]trace.Verdict
	}{
		{"docker-20.10", nil, status.PathProxy, [2]trace.Verdict{trace.Stops, trace.Reaches}, [2]trace.Verdict{trace.Reaches, trace.Reaches}},
		{"docker-20.10", []string{"--path=direct"}, status.PathDirect, [2]trace.Verdict{trace.Stops, trace.Reaches}, [2]trace.Verdict{trace.Reaches, trace.Reaches}},
		{"docker-20.10-noproxy", nil, status.PathKernel, [2]trace.Verdict{trace.Reaches, trace.Reaches}, [2]trace.Verdict{trace.Stops, trace.Reaches}},
		{"docker-iptables", nil, status.PathProxy, [2]trace.Verdict{trace.Reaches, trace.Reaches}, [2]trace.Verdict{trace.Reaches, trace.Reaches}},
		{"docker-nftables-noproxy", nil, status.PathKernel, [2]trace.Verdict{trace.Reaches, trace.Reaches}, [2]trace.Verdict{trace.Stops, trace.Reaches}},
		{"podman-netavark", nil, status.PathKernel, [2]trace.Verdict{trace.Reaches, trace.Reaches}, [2]trace.Verdict{trace.Stops, trace.Reaches}},
		{"podman-cni", nil, status.PathKernel, [2]trace.Verdict{trace.Reaches, trace.Reaches}, [2]trace.Verdict{trace.Stops, trace.Reaches}},
	} {
		t.Run(fmt.Sprint(test.engine, test.args), func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{})
			engine := labtest.StartEngine(t, b, test.engine)
			c := labtest.RunContainer(t, engine, "web", "8080:80/tcp", "8080:80/udp", "8099:81/tcp")
			check := func(when string, n int) {
				t.Helper()
				for _, port := range []string{"8080", "8080/udp"} {
					by := forecasts(t, b, port)
					for client, want := range map[trace.Client]trace.Verdict{trace.Windows: test.windows[n], trace.Linux: test.linux[n]} {
						if by[client].Verdict != want {
							t.Errorf("%s: from %s to %s it %s (%s), want %s\n%s", when, client, port, by[client].Verdict, by[client].Why, want, tell(t, b, port))
						}
						happens(t, b, client, port, by[client])
					}
				}
			}
			check("without wslmirror", 0)
			d := start(t, b.WSL, test.args...)
			d.await("its path", func(s status.Snapshot) bool {
				return s.State == status.Active && len(s.Ports) == 3 && s.Ports[0].Path == test.path
			})
			check("with wslmirror", 1)
			agrees(t, b, "8080", trace.Windows, trace.Linux)
			for client, f := range forecasts(t, b, "8099") {
				if f.Verdict != trace.Stops || !strings.Contains(f.Why, "does not listen on 81/tcp, but on 80") || f.Fix[0] != "# publish that port instead: --publish 8099:80" {
					t.Errorf("from %s to a port on which the container does not listen: %+v", client, f)
				}
			}
			lan := forecasts(t, b, "8080", "--from", "lan")[trace.LAN]
			if answer, err := b.LAN.Ask("tcp", "192.0.2.2:8080", patience); lan.Verdict != trace.Reaches || answer != "web" {
				t.Errorf("from the LAN it %s (%s), and: %q, %v\n%s", lan.Verdict, lan.Why, answer, err, tell(t, b, "8080", "--from=lan"))
			}
			// Whether the container reaches its own published port through its gateway.
			self := forecasts(t, b, "8080", "--from", "container:"+c.Addr.String())[trace.Container]
			t.Logf("from the container it %s: %s\n%s", self.Verdict, self.Why, tell(t, b, "8080", "--from=container:"+c.Addr.String()))
			t.Log(tell(t, b, "8080"))
		})
	}
}

// In the other mode, from a container to Windows, and for an ordinary user.
func TestTraceElsewhere(t *testing.T) {
	t.Run("consomme", func(t *testing.T) {
		t.Parallel()
		b := labtest.New(t, lab.Options{Mode: lab.Consomme})
		d := start(t, b.WSL)
		d.awaitState(status.Active)
		publishes(t, b, d)
		agrees(t, b, "8080", trace.Windows, trace.Linux)
		for client, f := range forecasts(t, b, "8080/udp") {
			// trace finds networks through their processes, and there is no process in the
			// container.
			if f.Verdict != trace.Unknown || !strings.Contains(f.Why, "no visible process has this address") {
				t.Errorf("from %s it %s: %s", client, f.Verdict, f.Why)
			}
		}
	})
	t.Run("to Windows", func(t *testing.T) {
		t.Parallel()
		b := labtest.New(t, lab.Options{})
		engine, err := b.StartStandIn()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Windows.ServeEcho("tcp", "127.0.0.1:11434"); err != nil {
			t.Fatal(err)
		}
		from := "--from=container:" + engine.Addr.String()
		f := forecasts(t, b, "11434", from)[trace.Container]
		if _, err := engine.Container.Ask("tcp", "172.17.0.1:11434", silence); f.Verdict != trace.Stops || !strings.Contains(f.Why, "nobody listens on 172.17.0.1:11434") || err == nil {
			t.Errorf("without --to-windows it %s: %s; %v", f.Verdict, f.Why, err)
		}
		start(t, b.WSL, "--to-windows=11434").awaitState(status.Active)
		labtest.Eventually(t, "Windows answers the container", func() bool {
			answer, _ := engine.Container.Ask("tcp", "172.17.0.1:11434", silence)
			return answer == "Windows"
		})
		if f = forecasts(t, b, "11434", from)[trace.Container]; f.Verdict != trace.Unknown || !strings.Contains(f.Why, "goes to Windows") {
			t.Errorf("with --to-windows it %s: %s\n%s", f.Verdict, f.Why, tell(t, b, "11434", from))
		}
		l := startLive(t, b, "11434", from, "--live=600", "--json")
		if answer, err := engine.Container.Ask("tcp", "172.17.0.1:11434", patience); answer != "Windows" {
			t.Errorf("it is told %q, %v", answer, err)
		}
		if c := l.clients()[trace.Container]; c.Requests == 0 || c.Answers == 0 || !c.Agrees {
			t.Errorf("with --to-windows came %d, %d answers\n%s", c.Requests, c.Answers, show(c))
		}
	})
	t.Run("ordinary user", func(t *testing.T) {
		t.Parallel()
		b := labtest.New(t, lab.Options{})
		if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:9000"); err != nil {
			t.Fatal(err)
		}
		cmd := asNobody(t)("trace", "9000")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		p, err := b.WSL.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		p.Wait()
		labtest.WantAll(t, out.String(), "? not certain", "by ip rule 0: from all iif loopback0", "an unknown program listens", "run with sudo")
		if code := cmd.ProcessState.ExitCode(); code != exitUnknown {
			t.Errorf("exit %d", code)
		}
	})
}
