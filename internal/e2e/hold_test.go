package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
	"github.com/wslmirror/wslmirror/internal/lab/tracker"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/systemd"
)

// A holder is a running "wslmirror hold".
type holder struct {
	t    *testing.T
	host *lab.Host
	dir  string // the daemon's directory
	proc *lab.Process
	log  *bytes.Buffer // complete after it has ended
}

// holderService is wslmirror with the rights that the holder's unit gives.
func holderService(t *testing.T) *sandbox.Program {
	t.Helper()
	p := *must(t, service)
	var err error
	if p.Filter, err = sandbox.OfUnit(systemd.HoldUnit); err != nil {
		t.Fatal(err)
	}
	p.Capability = "net_bind_service"
	return &p
}

// startHolder starts a holder beside a daemon.
func startHolder(t *testing.T, d *daemon) *holder {
	t.Helper()
	own := status.HoldDir(d.dir)
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(own, sandbox.User, sandbox.User); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(own) })
	h := &holder{t: t, host: d.host, dir: d.dir, log: new(bytes.Buffer)}
	cmd := holderService(t).Command("hold", "--runtime-dir", d.dir)
	cmd.Env = programEnv(cmd.Env)
	cmd.Stderr = h.log
	var err error
	if h.proc, err = d.host.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.proc.Stop(unix.SIGKILL)
		if t.Failed() {
			t.Logf("log of the holder:\n%s", h.log)
		}
	})
	return h
}

// await waits until it holds exactly these ports, written like 8080/tcp.
func (h *holder) await(ports ...string) {
	h.t.Helper()
	var now status.Hold
	came := false
	defer func() {
		if !came {
			h.t.Logf("it holds %q, refused %+v", now.Held, now.Refused)
		}
	}()
	labtest.Eventually(h.t, fmt.Sprintf("it holds %q", ports), func() bool {
		now, _ = status.ReadHold(status.HoldDir(h.dir))
		return now.Held != nil && slices.Equal(now.Held, append([]string{}, ports...))
	})
	came = true
}

// status returns the output of "wslmirror status" in the same network.
func (h *holder) status() (s status.Snapshot) {
	h.t.Helper()
	_, text := on(h.t, h.host, "status", "--json", "--runtime-dir", h.dir)
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		h.t.Fatalf("status says %q: %v", text, err)
	}
	return s
}

func (h *holder) stop() {
	h.t.Helper()
	if err := h.proc.Stop(unix.SIGTERM); err != nil {
		h.t.Errorf("ended with %v", err)
	}
}

// Windows does not know a port that a real portmap publishes only by rules. It knows the
// port while a holder and the container run, with each variant of WSL's port tracker.
func TestHold(t *testing.T) {
	for _, mode := range []lab.Mode{lab.Mirrored, lab.Consomme} {
		for name, opts := range map[string]tracker.Options{
			"newest": {}, "old kernel": {OldKernel: true}, "2.8.4": {Version: tracker.Version{2, 8, 4}},
			"2.6.3, old kernel": {Version: tracker.Version{2, 6, 3}, OldKernel: true},
		} {
			t.Run(fmt.Sprintf("%s/%s", mode, name), func(t *testing.T) {
				b := labtest.New(t, lab.Options{Mode: mode, Tracker: &opts})
				cni, err := b.StartPortmap()
				if err != nil {
					t.Fatal(err)
				}
				if err := cni.Publish("8080/tcp", "8080/udp", "80/tcp"); err != nil {
					t.Fatal(err)
				}
				d := start(t, b.WSL)
				d.await("three ports", func(s status.Snapshot) bool { return s.State == status.Active && len(s.Ports) == 3 })
				reach := func(when string, want string) {
					t.Helper()
					for _, proto := range []string{"tcp", "udp"} {
						answers(t, when, b.Windows, proto, "8080", want)
						answers(t, when, b.WSL, proto, "8080", "container")
					}
					answers(t, when, b.Windows, "tcp", "80", want)
				}
				reach("without a holder", "")
				// The holder's packets stay within Linux.
				if _, err := b.WSL.Run("nft", `table inet spy { chain out { type filter hook output priority 300; oifname != "lo" meta l4proto { tcp, udp } th sport { 80, 8080 } counter; }; }`); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				h := startHolder(t, d)
				h.await("80/tcp", "8080/tcp", "8080/udp")
				if out, err := b.WSL.Run("nft", "list", "table", "inet", "spy"); err != nil || !strings.Contains(out, "counter packets 0 ") {
					t.Errorf("the holder has sent something to others: %v\n%s", err, out)
				}
				reach("with a holder", "container")
				t.Logf("a holder begins and Windows has reached the container by each port after %v", time.Since(began).Round(time.Millisecond))
				// Windows still has the port after the tracker has forgotten every port
				// that it does not see.
				if err := b.Tracker.Advance(time.Hour); err != nil {
					t.Fatal(err)
				}
				reach("an hour later", "container")
				if err := cni.Withdraw(); err != nil {
					t.Fatal(err)
				}
				began = time.Now()
				h.await()
				labtest.Eventually(t, "Windows has all ports back", func() bool { return len(b.Tracker.Ports()) == 0 })
				t.Logf("given back after %v", time.Since(began).Round(time.Millisecond))
				if err := cni.Publish("8080/tcp"); err != nil {
					t.Fatal(err)
				}
				began = time.Now()
				labtest.Eventually(t, "Windows reaches the container", func() bool {
					answer, _ := b.Windows.Ask("tcp", "127.0.0.1:8080", silence)
					return answer == "container"
				})
				t.Logf("published again, and reached after %v", time.Since(began).Round(time.Millisecond))
				h.stop()
			})
		}
	}
}

// publishByRules publishes TCP and UDP ports as CNI's portmap does, for Windows and for
// Linux. ports is a list in nft's syntax. There are no containers behind them.
func publishByRules(t *testing.T, b *lab.Bench, ports string) {
	t.Helper()
	if out, err := b.WSL.Run("nft", fmt.Sprintf(`table ip cni {
	chain CNI-HOSTPORT-DNAT { meta l4proto { tcp, udp } th dport { %s } dnat to 10.4.0.2:80; }
	chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump CNI-HOSTPORT-DNAT; }
	chain output { type nat hook output priority -100; fib daddr type local jump CNI-HOSTPORT-DNAT; }
}`, ports)); err != nil {
		t.Fatal(out, err)
	}
}

// beginHolding starts a daemon and a holder, and waits until the ports are held.
func beginHolding(t *testing.T, b *lab.Bench, ports ...string) (*daemon, *holder) {
	t.Helper()
	d := start(t, b.WSL)
	d.await("the ports", func(s status.Snapshot) bool { return s.State == status.Active && len(s.Ports) == len(ports) })
	h := startHolder(t, d)
	h.await(ports...)
	return d, h
}

// If the holder cannot bind [::1], it holds 127.0.0.1.
func TestHolderWithoutIPv6(t *testing.T) {
	for name, without := range map[string]func(*lab.Bench) error{
		"no address": func(b *lab.Bench) error { return b.WSL.Sysctl("ipv6/conf/lo/disable_ipv6", "1") },
		"an engine's own": func(b *lab.Bench) error {
			_, err := b.WSL.Run("nft", "table ip6 cni { chain output { type nat hook output priority -100; tcp dport 8080 dnat to [fd00::2]:80; }; }")
			return err
		},
		"a program": func(b *lab.Bench) error {
			var l net.Listener
			err := b.WSL.Do(func() (err error) { l, err = net.Listen("tcp6", "[::1]:8080"); return err })
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := labtest.New(t, lab.Options{Tracker: &tracker.Options{OldKernel: true}})
			if err := without(b); err != nil {
				t.Fatal(err)
			}
			publishByRules(t, b, "8080")
			_, h := beginHolding(t, b, "8080/tcp", "8080/udp")
			if err := b.Tracker.Advance(time.Hour); err != nil || len(b.Tracker.Ports()) != 2 {
				t.Errorf("an hour later Windows has %v, %v", b.Tracker.Ports(), err)
			}
			if out, err := b.WSL.Run("ss", "--tcp", "--all", "--numeric", "src", "127.0.0.1:8080"); err != nil || !strings.Contains(out, "127.0.0.1:8080") && !strings.Contains(out, "127.0.0.1%lo:8080") {
				t.Errorf("the sockets are %v\n%s", err, out)
			}
			h.stop()
		})
	}
}

// A socket that shares [::1], as another holder's does before it is connected, does not make
// the holder use IPv4. A program can still bind that.
func TestHolderSharesIPv6(t *testing.T) {
	b := labtest.New(t, lab.Options{Tracker: &tracker.Options{}})
	err := b.WSL.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		return errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.Bind(fd, &unix.SockaddrInet6{Port: 8080, Addr: [16]byte{15: 1}}),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	publishByRules(t, b, "8080")
	beginHolding(t, b, "8080/tcp", "8080/udp")
	if _, err := b.WSL.ServeEcho("udp", "0.0.0.0:8080"); err != nil {
		t.Errorf("beside the holder: %v", err)
	}
}

// If a program binds the port, the holder releases it. When the program ends, the kernel
// tells the holder.
func TestHolderGivesWay(t *testing.T) {
	b := labtest.New(t, lab.Options{Tracker: &tracker.Options{}})
	publishByRules(t, b, "8080")
	_, h := beginHolding(t, b, "8080/tcp", "8080/udp")
	for _, proto := range []string{"tcp", "udp"} {
		server, err := b.WSL.ServeEcho(proto, "0.0.0.0:8080")
		if err != nil {
			t.Fatalf("beside the holder: %v", err)
		}
		// There is no event when a socket appears. But status starts a pass of the daemon,
		// and that one of the holder.
		if s := h.status(); !slices.ContainsFunc(s.Ports, func(p status.Port) bool { return p.Proto == proto && p.Holder == "program" }) {
			t.Errorf("status --json: %+v", s.Ports)
		}
		h.await(map[string]string{"tcp": "8080/udp", "udp": "8080/tcp"}[proto])
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		h.await("8080/tcp", "8080/udp")
	}
	h.stop()
	if err := b.Tracker.Advance(time.Hour); err != nil || len(b.Tracker.Ports()) > 0 {
		t.Errorf("without a holder Windows has %v, %v", b.Tracker.Ports(), err)
	}
}

// If Windows refuses a port, the holder reports that and backs off. It holds the port when
// something has changed.
func TestHolderIsRefused(t *testing.T) {
	for _, mode := range []lab.Mode{lab.Mirrored, lab.Consomme} {
		t.Run(mode.String(), func(t *testing.T) {
			labtest.PlayWindows(t, "en") // a program listens on 9001 there
			b := labtest.New(t, lab.Options{Mode: mode, Tracker: &tracker.Options{}})
			b.Tracker.Refuse(tracker.Port{Proto: unix.IPPROTO_TCP, Number: 9001})
			publishByRules(t, b, "9001")
			d := start(t, b.WSL)
			d.await("the ports", func(s status.Snapshot) bool { return s.State == status.Active && len(s.Ports) == 2 })
			h := startHolder(t, d)
			h.await("9001/udp")
			now, err := status.ReadHold(status.HoldDir(d.dir))
			if want := []status.Refusal{{Port: "9001/tcp", Windows: true, Reason: "refused by Windows"}}; err != nil || !slices.Equal(now.Refused, want) {
				t.Errorf("refused are %+v, %v; want %+v", now.Refused, err, want)
			}
			const why = "Windows refuses it: a Windows program (process 20480) listens on "
			_, text := on(t, b.WSL, "status", "--runtime-dir", d.dir)
			labtest.WantAll(t, unfolded(text), why, "the engine's own rules handle it; held by wslmirror")
			_, text = on(t, b.WSL, "ports", "--runtime-dir", d.dir)
			labtest.WantAll(t, unfolded(text), why, "9001/udp ", "wslmirror (")
			s := h.status()
			if got := s.Ports[0].Holder + " " + s.Ports[1].Holder; got != "nobody wslmirror" || !strings.HasPrefix(s.Ports[0].HolderReason, why) {
				t.Errorf("status --json: %+v", s.Ports)
			}
			if c := diagnose(t, b.WSL, d.dir).check("published-ports"); c.Verdict != "fault" || !strings.Contains(c.Seen, "9001/tcp (cni); wslmirror cannot hold 9001/tcp: refused by Windows") {
				t.Errorf("doctor: %+v", c)
			}
			// Frequent events that change nothing do not cause a request to Windows each.
			before := b.Tracker.Binds()
			for range 50 {
				if err := status.Refresh(d.dir); err != nil {
					t.Fatal(err)
				}
			}
			if n := b.Tracker.Binds() - before; n > 10 {
				t.Errorf("50 looks of the daemon cost %d binds", n)
			}
			b.Tracker.Allow(tracker.Port{Proto: unix.IPPROTO_TCP, Number: 9001})
			if _, err := b.WSL.Run("nft", "add rule ip cni CNI-HOSTPORT-DNAT tcp dport 9002 dnat to 10.4.0.2:80"); err != nil {
				t.Fatal(err)
			}
			h.await("9001/tcp", "9001/udp", "9002/tcp")
		})
	}
}

// Among the distributions of one VM, the one with the active daemon holds the ports. The
// next one takes over, whether the daemon or the holder ends.
func TestHolderOfWhoServes(t *testing.T) {
	b := labtest.New(t, lab.Options{Tracker: &tracker.Options{}})
	publishByRules(t, b, "8080")
	serves, first := beginHolding(t, b, "8080/tcp", "8080/udp")
	standby := start(t, b.WSL)
	standby.awaitState(status.Standby)
	second := startHolder(t, standby)
	second.await()
	first.proc.Stop(unix.SIGKILL)
	serves.proc.Stop(unix.SIGKILL)
	second.await("8080/tcp", "8080/udp")
	if p := b.Tracker.Ports(); len(p) != 2 {
		t.Errorf("Windows has %v", p)
	}
}

// While one holder has a port, another does without. It takes over when the kernel reports
// the end of the first.
func TestTwoHolders(t *testing.T) {
	b := labtest.New(t, lab.Options{Tracker: &tracker.Options{}})
	publishByRules(t, b, "8080")
	d, first := beginHolding(t, b, "8080/tcp", "8080/udp")
	other := &daemon{t: t, host: b.WSL, dir: runtimeDir(t)}
	s, err := status.Read(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := status.Write(other.dir, s); err != nil {
		t.Fatal(err)
	}
	second := startHolder(t, other)
	second.await("8080/udp") // both can hold UDP
	first.proc.Stop(unix.SIGKILL)
	second.await("8080/tcp", "8080/udp")
}

// 500 containers come and go. None of their ports stays held, and Windows gets at most 30
// requests a second.
func TestHolderChurn(t *testing.T) {
	b := labtest.New(t, lab.Options{Tracker: &tracker.Options{}})
	publishByRules(t, b, "8080")
	_, h := beginHolding(t, b, "8080/tcp", "8080/udp")
	nft := func(command string) {
		t.Helper()
		if out, err := b.WSL.Run("nft", command); err != nil {
			t.Fatal(out, err)
		}
	}
	nft("add chain ip cni CNI-DN; add rule ip cni CNI-HOSTPORT-DNAT jump CNI-DN")
	const containers, atOnce = 500, 10
	began, binds := time.Now(), b.Tracker.Binds()
	for first := 0; first < containers; first += atOnce {
		want := []string{"8080/tcp", "8080/udp"}
		rules := ""
		for i := range atOnce {
			rules += fmt.Sprintf("add rule ip cni CNI-DN tcp dport %d dnat to 10.4.0.%d:80\n", 10000+first+i, 3+i)
			want = append(want, fmt.Sprintf("%d/tcp", 10000+first+i))
		}
		nft(rules)
		if first%100 == 0 {
			h.await(want...) // the others may go too fast to be held
		}
		nft("flush chain ip cni CNI-DN")
	}
	h.await("8080/tcp", "8080/udp")
	took := time.Since(began)
	// The tracker may never have seen a port that was held for less than a second. It then
	// keeps the port for a minute.
	labtest.Eventually(t, "Windows has only the ports that are published", func() bool {
		if err := b.Tracker.Advance(time.Hour); err != nil {
			t.Fatal(err)
		}
		return len(b.Tracker.Ports()) == 2
	})
	if most := int(30*took.Seconds()) + 30; b.Tracker.Binds()-binds > most {
		t.Errorf("%d binds in %v, more than 30 a second", b.Tracker.Binds()-binds, took)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.proc.Cmd.Process.Pid))
	if err != nil || len(fds) > 20 {
		t.Errorf("then the holder has %d descriptors, %v", len(fds), err)
	}
	h.stop()
	used := h.proc.Cmd.ProcessState.UserTime() + h.proc.Cmd.ProcessState.SystemTime()
	t.Logf("%d containers came and went in %.1f s; %d binds; CPU of the holder %.2f s", containers, took.Seconds(), b.Tracker.Binds()-binds, used.Seconds())
}

// 1,000 ports that are published at once are all held, at the rate that leaves WSL's tracker
// two thirds of its time. It is as slow here as WSL's own.
func TestHolderOfManyPorts(t *testing.T) {
	t.Parallel()
	const ports, first, atOnce, perSecond = 1000, 10000, 15, 30
	b := labtest.New(t, lab.Options{Tracker: &tracker.Options{Pause: 11 * time.Millisecond}})
	publishByRules(t, b, "8080")
	_, h := beginHolding(t, b, "8080/tcp", "8080/udp")
	rules, want := "", []string{"8080/tcp", "8080/udp"}
	for i := range ports {
		rules += fmt.Sprintf("add rule ip cni CNI-HOSTPORT-DNAT tcp dport %d dnat to 10.4.0.2:80\n", first+i)
		want = append(want, fmt.Sprintf("%d/tcp", first+i))
	}
	file := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := b.WSL.Run("nft", "--file", file); err != nil {
		t.Fatal(out, err)
	}
	began := time.Now()
	held := func() int {
		now, _ := status.ReadHold(status.HoldDir(h.dir))
		return len(now.Held)
	}
	labtest.Eventually(t, "it holds some", func() bool { return held() > 100 })
	// Others go on meanwhile.
	var slowest time.Duration
	for range 50 {
		asked := time.Now()
		s, err := b.WSL.ServeEcho("tcp", "0.0.0.0:9999")
		if err == nil {
			err = s.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(asked))
	}
	h.await(want...)
	took := time.Since(began)
	if least := time.Second * (ports - atOnce) / perSecond; took < least-time.Second || took > lab.Scaled(2*least) {
		t.Errorf("%d ports were held after %v, want %v", ports, took, least)
	}
	if len(b.Tracker.Ports()) < ports+2 {
		t.Errorf("Windows knows %d ports", len(b.Tracker.Ports()))
	}
	if out, err := b.WSL.Run("nft", "delete table ip cni"); err != nil {
		t.Fatal(out, err)
	}
	began = time.Now()
	h.await()
	gone := time.Since(began)
	h.stop()
	used := h.proc.Cmd.ProcessState.UserTime() + h.proc.Cmd.ProcessState.SystemTime()
	t.Logf("%d ports were held after %.1f s, and released after %.2f s; the slowest bind() of 50 others took %v; CPU of the holder %.2f s",
		ports, took.Seconds(), gone.Seconds(), slowest.Round(time.Millisecond), used.Seconds())
}

// Whatever is killed, published, bound and refused meanwhile, in the end the holder holds
// exactly the published ports that no program has.
func TestHolderAfterFaults(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	b := labtest.New(t, lab.Options{Tracker: &tracker.Options{}})
	publishByRules(t, b, "8080")
	d, h := beginHolding(t, b, "8080/tcp", "8080/udp")
	published, programs, refused := map[int]bool{}, map[int]*lab.Server{}, map[int]bool{}
	const first, ports = 9100, 6
	port := func(i int) tracker.Port { return tracker.Port{Proto: unix.IPPROTO_TCP, Number: uint16(first + i)} }
	faults := []func(i int) error{
		func(i int) error { // a container starts or ends
			published[i] = !published[i]
			rules := "add chain ip cni CNI-DN; flush chain ip cni CNI-DN;"
			for i, on := range published {
				if on {
					rules += fmt.Sprintf("add rule ip cni CNI-DN tcp dport %d dnat to 10.4.0.2:80;", first+i)
				}
			}
			_, err := b.WSL.Run("nft", rules)
			return err
		},
		func(i int) (err error) { // a program starts or ends
			if programs[i] != nil {
				err = programs[i].Close()
				delete(programs, i)
				return err
			}
			server, err := b.WSL.ServeEcho("tcp", fmt.Sprintf("0.0.0.0:%d", first+i))
			if err == nil {
				programs[i] = server
			} else if refused[i] {
				err = nil
			}
			return err
		},
		func(i int) error { // Windows begins or ceases to refuse a port
			if refused[i] = !refused[i]; refused[i] {
				b.Tracker.Refuse(port(i))
			} else {
				b.Tracker.Allow(port(i))
			}
			return nil
		},
		func(int) error {
			h.proc.Stop(unix.SIGKILL)
			h = startHolder(t, d)
			return nil
		},
		func(int) error {
			d.proc.Stop(unix.SIGKILL)
			cmd := asService(t, "run", "--runtime-dir", d.dir)
			cmd.Stderr = d.log
			var err error
			d.proc, err = b.WSL.Start(cmd)
			return err
		},
	}
	if _, err := b.WSL.Run("nft", "add chain ip cni CNI-DN; add rule ip cni CNI-HOSTPORT-DNAT jump CNI-DN"); err != nil {
		t.Fatal(err)
	}
	for range 60 {
		if err := faults[random.IntN(len(faults))](random.IntN(ports)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
	}
	for i, on := range refused { // Windows may still have ports of a program or the holder
		if on {
			b.Tracker.Allow(port(i))
		}
	}
	want := []string{"8080/tcp", "8080/udp"}
	for i := range ports {
		if published[i] && programs[i] == nil {
			want = append(want, fmt.Sprintf("%d/tcp", first+i))
		}
	}
	labtest.Eventually(t, fmt.Sprintf("it holds %q", want), func() bool {
		if err := status.Refresh(d.dir); err != nil { // there is no event when a program starts, or when Windows allows a port
			return false
		}
		now, err := status.ReadHold(status.HoldDir(d.dir))
		if err != nil || !slices.Equal(now.Held, want) {
			return false
		}
		// That may be what a killed holder has published last. Windows knows what is held.
		if err := b.Tracker.Advance(time.Hour); err != nil {
			t.Fatal(err)
		}
		return len(b.Tracker.Ports()) == len(want)+len(programs)
	})
}

// Podman 6 holds a port with one socket for both families, which is bound and does not
// listen. If the kernel lists such sockets, Windows has the port, and the holder leaves it
// alone. The socket is a stand-in that does what libpod's oci_util.go does. Debian 13's
// netavark has written the rules.
func TestHolderBesidePodman6(t *testing.T) {
	b := labtest.New(t, lab.Options{Tracker: &tracker.Options{}})
	err := b.WSL.Do(func() error {
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
			fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			t.Cleanup(func() { unix.Close(fd) })
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
				return err
			}
			if err := unix.Bind(fd, &unix.SockaddrInet6{Port: 8080}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := b.WSL.Run("nft", "--file", "../../nft/ruleset/testdata/rulesets/podman-netavark-nftables.nft"); err != nil {
		t.Fatal(out, err)
	}
	d := start(t, b.WSL)
	s := d.await("the ports", func(s status.Snapshot) bool { return s.State == status.Active && len(s.Ports) >= 2 })
	h := startHolder(t, d)
	// The other ports are Podman's too, which has some seconds to bind them.
	h.await("8081/tcp", "8090/tcp", "8091/tcp", "8092/tcp")
	labtest.Eventually(t, "Podman is told to be who holds", func() bool {
		s = h.status()
		return s.Ports[0].Port == 8080 && s.Ports[0].Engine == "podman" && s.Ports[0].Holder == "program" // the port of the stand-in's socket
	})
	h.stop()
	if err := b.Tracker.Advance(time.Hour); err != nil || len(b.Tracker.Ports()) != 2 {
		t.Errorf("then Windows has %v, %v; want Podman's two", b.Tracker.Ports(), err)
	}
}

// A NodePort, as kube-proxy writes it in iptables mode. The rules are a stand-in, written
// from its documented chains; the bench has no kube-proxy.
func TestHolderOfNodePorts(t *testing.T) {
	for _, localhost := range []bool{true, false} { // --iptables-localhost-nodeports
		t.Run(fmt.Sprint(localhost), func(t *testing.T) {
			b := labtest.New(t, lab.Options{Tracker: &tracker.Options{}})
			if _, err := b.StartPortmap(); err != nil { // for its container
				t.Fatal(err)
			}
			to := "! -d 127.0.0.0/8"
			if localhost {
				to = ""
				if err := b.WSL.Sysctl("ipv4/conf/all/route_localnet", "1"); err != nil {
					t.Fatal(err)
				}
			}
			rules := `*nat
:KUBE-SERVICES -
:KUBE-NODEPORTS -
:KUBE-EXT-A -
:KUBE-SVC-A -
:KUBE-SEP-A -
:KUBE-MARK-MASQ -
:KUBE-POSTROUTING -
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-A
-A KUBE-SERVICES ` + to + ` -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-EXT-A
-A KUBE-EXT-A -j KUBE-MARK-MASQ
-A KUBE-EXT-A -j KUBE-SVC-A
-A KUBE-SVC-A -j KUBE-SEP-A
-A KUBE-SEP-A -s 10.4.0.2/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.4.0.2:80
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
`
			if out, err := b.WSL.Run("sh", "-c", "iptables-nft-restore --noflush <<'E'\n"+rules+"E\n"); err != nil {
				t.Fatal(out, err)
			}
			d := start(t, b.WSL)
			d.awaitState(status.Active)
			h := startHolder(t, d)
			if !localhost {
				h.await()
				return
			}
			h.await("30080/tcp")
			answers(t, "a NodePort", b.Windows, "tcp", "30080", "container")
			answers(t, "a NodePort", b.WSL, "tcp", "30080", "container")
		})
	}
}
