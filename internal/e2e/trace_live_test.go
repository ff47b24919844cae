package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/trace"
)

// A liveTrace is a "wslmirror trace --live" that is waiting for packets.
type liveTrace struct {
	t         *testing.T
	proc      *lab.Process
	out, errs locked
}

// locked is a buffer for concurrent writing and reading.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func startLive(t *testing.T, b *lab.Bench, args ...string) *liveTrace {
	t.Helper()
	cmd := program(t, append([]string{"trace"}, args...)...)
	l := &liveTrace{t: t}
	cmd.Stdout, cmd.Stderr = &l.out, &l.errs
	var err error
	if l.proc, err = b.WSL.Start(cmd); err != nil {
		t.Fatal(err)
	}
	labtest.Eventually(t, "it says that it waits", func() bool {
		return strings.Contains(l.out.String()+l.errs.String(), "Waiting for packets to ")
	})
	return l
}

// end presses ^C and returns what is printed then.
func (l *liveTrace) end() string {
	l.t.Helper()
	var exit *exec.ExitError
	if err := l.proc.Stop(os.Interrupt); err != nil && !errors.As(err, &exit) {
		l.t.Fatal(err)
	}
	return l.out.String()
}

// clients ends a trace with --json and returns its clients.
func (l *liveTrace) clients() map[trace.Client]trace.Live {
	l.t.Helper()
	out := l.end()
	labtest.WantValid(l.t, "trace", []byte(out))
	var all struct {
		Live struct{ Clients []trace.Live }
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		l.t.Fatalf("%v: %s%s", err, out, l.errs.String())
	}
	by := map[trace.Client]trace.Live{}
	for _, c := range all.Live.Clients {
		by[c.From] = c
	}
	return by
}

// traceTables returns the names of the tables that trace packets.
func traceTables(t *testing.T, b *lab.Bench) (names []string) {
	t.Helper()
	out, err := b.WSL.Run("nft", "list", "tables")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "wslmirror-trace") {
			names = append(names, strings.TrimSpace(line))
		}
	}
	return names
}

// Real packets do what was forecast, and differences are marked.
func TestTraceLive(t *testing.T) {
	for _, path := range []string{status.PathProxy, status.PathDirect} {
		t.Run(path, func(t *testing.T) {
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
			if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:9000"); err != nil {
				t.Fatal(err)
			}
			start(t, b.WSL, "--path="+path).await("its path", func(s status.Snapshot) bool {
				return s.State == status.Active && len(s.Ports) == 2 && s.Ports[0].Path == path
			})
			hosts := map[trace.Client]*lab.Host{trace.Windows: b.Windows, trace.Linux: b.WSL, trace.LAN: b.LAN, trace.Container: engine.Container}
			for _, port := range []string{"8080", "8080/udp", "9000"} {
				for _, client := range []trace.Client{trace.Windows, trace.Linux, trace.LAN, trace.Container} {
					number, proto, _ := strings.Cut(port, "/")
					if proto == "" {
						proto = "tcp"
					}
					at, args := "127.0.0.1:"+number, []string{port, "--live", "600", "--json"}
					switch {
					case client == trace.LAN && port != "9000":
						at, args = "192.0.2.2:"+number, append(args, "--from=lan")
					case client == trace.Container && port != "9000":
						at, args = "172.17.0.1:"+number, append(args, "--from=container:"+engine.Addr.String())
					case client == trace.LAN || client == trace.Container:
						continue // the server is on 127.0.0.1
					}
					l := startLive(t, b, args...)
					if answer, err := hosts[client].Ask(proto, at, patience); err != nil {
						t.Errorf("%s is told %q, %v", client, answer, err)
					}
					seen := l.clients()
					for _, c := range seen {
						if asked := c.From == client; asked != (c.Requests > 0) && c.From != trace.Proxy || asked != (c.Answers > 0) && c.From != trace.Proxy || !c.Agrees {
							t.Errorf("from %s to %s: of %s came %d, %d answers, agrees %v\n%s", client, port, c.From, c.Requests, c.Answers, c.Agrees, show(c))
						}
					}
				}
			}
		})
	}
}

// agrees fails the test unless clients' packets to a port do what is forecast.
func agrees(t *testing.T, b *lab.Bench, port string, clients ...trace.Client) {
	t.Helper()
	l := startLive(t, b, port, "--live=600", "--json")
	for _, client := range clients {
		h := map[trace.Client]*lab.Host{trace.Windows: b.Windows, trace.Linux: b.WSL}[client]
		if answer, err := h.Ask("tcp", "127.0.0.1:"+port, patience); err != nil {
			t.Errorf("%s is told %q, %v", client, answer, err)
		}
	}
	seen := l.clients()
	for _, client := range clients {
		if c := seen[client]; c.Requests == 0 || c.Answers == 0 || !c.Agrees {
			t.Errorf("from %s came %d, %d answers, agrees %v\n%s", client, c.Requests, c.Answers, c.Agrees, show(c))
		}
	}
}

func show(c trace.Live) string {
	b, _ := json.MarshalIndent(c.Hops, "", " ")
	return string(b)
}

// What a firewall drops, as it was forecast and otherwise. Nothing is left behind.
func TestTraceLiveOfWhatIsDropped(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	for _, at := range []string{"127.0.0.1:9000", "127.0.0.1:9001"} {
		if _, err := b.WSL.ServeEcho("tcp", at); err != nil {
			t.Fatal(err)
		}
	}
	const firewall = `nft 'table inet fw { chain in { type filter hook input priority 0; tcp dport 9001 drop comment "not here"; }; }'`
	if _, err := b.WSL.Run("sh", "-c", firewall); err != nil {
		t.Fatal(err)
	}
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	lost := func(h *lab.Host, port string) {
		t.Helper()
		if answer, err := h.Ask("tcp", "127.0.0.1:"+port, silence); err == nil {
			t.Errorf("port %s answers %q", port, answer)
		}
	}
	// ends returns the last hop of the requests.
	ends := func(c trace.Live) (last trace.LiveHop) {
		for _, h := range c.Hops {
			if !h.Reply && h.Packets > 0 {
				last = h
			}
		}
		return last
	}

	l := startLive(t, b, "9001", "--live=600", "--json")
	lost(b.Windows, "9001")
	lost(b.WSL, "9001")
	for client, c := range l.clients() {
		if h := ends(c); c.Requests == 0 || !c.Agrees || h.Table != "inet fw" || h.Chain != "in" || h.Verdict != "drop" || h.Comment != "not here" || h.Packets != c.Requests {
			t.Errorf("from %s, dropped as forecast: %+v\n%s", client, ends(c), show(c))
		}
	}

	l = startLive(t, b, "9000", "--live=600", "--json")
	if _, err := b.WSL.Run("nft", "insert", "rule", "inet", "fw", "in", "tcp", "dport", "9000", "drop", "comment", "younger"); err != nil {
		t.Fatal(err)
	}
	lost(b.Windows, "9000")
	seen := l.clients()
	if c := seen[trace.Windows]; c.Requests == 0 || c.Agrees {
		t.Errorf("a younger rule, from Windows: %s", show(c))
	} else if h := ends(c); !h.Differs || h.Verdict != "drop" || h.Comment != "younger" || h.Handle == 0 || h.Forecast == nil || h.Forecast.Verdict != "pass" {
		t.Errorf("a younger rule: %+v", h)
	}
	if c := seen[trace.Linux]; c.Requests+c.Answers > 0 || !c.Agrees {
		t.Errorf("from Linux, from where nothing was sent: %s", show(c))
	}
	if _, err := b.WSL.Run("nft", "flush", "chain", "inet", "fw", "in"); err != nil {
		t.Fatal(err)
	}

	// The printed form, after a rule has been added that drops.
	l = startLive(t, b, "9000", "--live", "600")
	if _, err := b.WSL.Run("nft", "add", "rule", "inet", "fw", "in", "tcp", "dport", "9000", "drop"); err != nil {
		t.Fatal(err)
	}
	lost(b.Windows, "9000")
	labtest.WantAll(t, l.end(), "Waiting for packets to 9000/tcp, for 600 s or until ^C", "✓ arrives", "✗ drop by rule", "; forecast: pass",
		"1 difference", "? no packets")

	l = startLive(t, b, "9000", "--live", "1")
	l.proc.Wait()
	labtest.WantAll(t, l.out.String(), "No packet to 9000/tcp in 1 s", "in Windows:  curl.exe http://127.0.0.1:9000/", "in Linux:    curl http://127.0.0.1:9000/")

	if left := traceTables(t, b); left != nil {
		t.Errorf("left: %q", left)
	}
	l = startLive(t, b, "9000", "--live=600")
	other := startLive(t, b, "9001", "--live=600")
	if n := len(traceTables(t, b)); n != 2 {
		t.Errorf("%d tables while two trace", n)
	}
	if s, _ := d.status(); s.State != status.Active || !s.Table.Installed {
		t.Errorf("meanwhile the daemon is %+v", s)
	}
	// Neither sees the other's table.
	third := startLive(t, b, "9000", "--live=600", "--json")
	if _, err := b.WSL.Run("nft", "flush", "chain", "inet", "fw", "in"); err != nil {
		t.Fatal(err)
	}
	if answer, err := b.Windows.Ask("tcp", "127.0.0.1:9000", patience); err != nil {
		t.Errorf("Windows is told %q, %v", answer, err)
	}
	for _, c := range third.clients() {
		for _, h := range c.Hops {
			if strings.Contains(h.Table, "trace") {
				t.Errorf("sees %+v", h)
			}
		}
	}
	l.proc.Stop(unix.SIGKILL)
	other.end()
	labtest.Eventually(t, "nothing is left", func() bool { return traceTables(t, b) == nil })
}

// With random rulesets nothing differs from the forecast, so a marked difference can be
// trusted.
func TestTraceLiveAsForecast(t *testing.T) {
	b := traceBench(t, "proxy")
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		rules := loadRandom(t, b, r)
		if err := b.WSL.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }); err != nil {
			t.Fatal(err)
		}
		port := []string{"8080", "9000"}[r.IntN(2)]
		look := func() (differs string) {
			l := startLive(t, b, port, "--live=600", "--json")
			for _, h := range []*lab.Host{b.Windows, b.WSL} {
				_, _ = h.Ask("tcp", "127.0.0.1:"+port, 120*time.Millisecond) // requests that are dropped time out
			}
			for _, c := range l.clients() {
				if !c.Agrees {
					differs += fmt.Sprintf("seed %d: from %s to %s it differs\n%s\n%s\n%s", seed, c.From, port, show(c), tell(t, b, port), rules)
				}
			}
			return differs
		}
		// A reset that ends a connection of before may come into the first look.
		if look() != "" {
			if differs := look(); differs != "" {
				t.Error(differs)
			}
		}
	}
}

// On a busy port only some of the packets are traced.
func TestTraceLiveOfABusyPort(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	if _, err := b.WSL.ServeEcho("udp", "127.0.0.1:9000"); err != nil {
		t.Fatal(err)
	}
	// Some may get lost on the way from Windows.
	if _, err := b.WSL.Run("nft", "table ip watch { chain arriving { type filter hook prerouting priority -400; iifname loopback0 udp dport 9000 counter; }; }"); err != nil {
		t.Fatal(err)
	}
	l := startLive(t, b, "9000/udp", "--live=600", "--json")
	if _, err := b.Windows.Ask("udp", "127.0.0.1:9000", patience); err != nil {
		t.Fatal(err)
	}
	const sent = 2000
	if err := b.Windows.Do(func() error {
		conn, err := net.Dial("udp4", "127.0.0.1:9000")
		if err != nil {
			return err
		}
		defer conn.Close()
		for range sent {
			_, _ = conn.Write([]byte("?")) // a receiver without room drops it
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// Some may still be on their way, and arrive when the trace has ended.
	var arrived uint64
	labtest.Eventually(t, "packets arrive", func() bool {
		list, err := b.WSL.Run("nft", "list table ip watch")
		_, counter, _ := strings.Cut(list, "counter packets ")
		if _, scanErr := fmt.Sscan(counter, &arrived); err != nil || scanErr != nil {
			t.Fatal(err, scanErr)
		}
		return arrived >= sent/2
	})
	var all struct {
		Live struct {
			Missed  uint64
			Clients []trace.Live
		}
	}
	if err := json.Unmarshal([]byte(l.end()), &all); err != nil {
		t.Fatal(err)
	}
	c := all.Live.Clients[0]
	if c.Requests == 0 || c.Requests > sent/2 || c.Requests+all.Live.Missed < arrived {
		t.Errorf("of %d packets that arrived %d were seen, and %d missed", arrived, c.Requests, all.Live.Missed)
	}
}

// Only root may trace live.
func TestTraceLiveNeedsRoot(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	cmd := asNobody(t)("trace", "9000", "--live")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := b.WSL.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	p.Wait()
	labtest.WantAll(t, out.String(), "only root can trace packets", "hint: run with sudo")
	if code := cmd.ProcessState.ExitCode(); code != exitFailure {
		t.Errorf("exit %d", code)
	}
}
