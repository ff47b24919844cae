package e2e

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// askedAgain is the comment of the rule that refuses.
const askedAgain = "asked again: closed"

// A SYN is retransmitted after one second, so a refusal comes after that, and long before
// the client times out by itself.
var (
	soonest = 900 * time.Millisecond
	latest  = lab.Scaled(3 * time.Second)
)

// longer is how long a client waits that should not be refused: longer than a refusal
// takes. As with silence, a busy machine can hide a fault, but cannot cause a failure.
const longer = 2 * time.Second

// connect opens a TCP connection, closes it, and returns the result: see cameTo.
func connect(h *lab.Host, local, addr string, wait time.Duration) string {
	c, err := h.Dial("tcp", local, addr, wait)
	if err == nil {
		c.Close()
	}
	return cameTo(err)
}

// comesTo connects and requires the result want.
func comesTo(t *testing.T, when string, h *lab.Host, addr, want string) {
	t.Helper()
	wait := patience
	if want == "waiting" {
		wait = longer
	}
	if got := connect(h, "", addr, wait); got != want {
		t.Errorf("%s: %s to %s: %s, want %s", when, h.Name, addr, got, want)
	}
}

// refusedBy connects to a closed port and requires the refusal that follows the second SYN.
func refusedBy(t *testing.T, when string, h *lab.Host, local, addr string) {
	t.Helper()
	began := time.Now()
	got := connect(h, local, addr, patience)
	if took := time.Since(began); got != "refused" || took < soonest || took > latest {
		t.Errorf("%s: %s to %s: %s after %v; want a refusal after %v to %v", when, h.Name, addr, got, took, soonest, latest)
	}
}

// A closed port on 127.0.0.1 refuses Linux's clients, which would otherwise wait.
func TestClosedPortRefuses(t *testing.T) {
	const closed = "127.0.0.1:7999"
	for _, mode := range []lab.Mode{lab.Mirrored, lab.MirroredHAL} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{Mode: mode})
			comesTo(t, "without wslmirror", b.WSL, closed, "waiting")
			d := start(t, b.WSL, "--repair=false")
			d.awaitState(status.Active)
			comesTo(t, "--repair=false", b.WSL, closed, "waiting")
			d.stop(unix.SIGTERM)

			d = start(t, b.WSL)
			d.awaitState(status.Active)
			refusedBy(t, "with wslmirror", b.WSL, "", closed)
			refusedBy(t, "once more", b.WSL, "", closed)
			comesTo(t, "Windows", b.Windows, closed, "refused")
			if n := counted(t, b.WSL, askedAgain); n != 2 {
				t.Errorf("counted %d refusals, not 2", n)
			}
			if got := d.direction(status.ClosedPorts); !got.Active || got.Connections != 2 {
				t.Errorf("status: %+v", got)
			}
			d.stop(unix.SIGTERM)
			comesTo(t, "afterwards", b.WSL, closed, "waiting")
		})
	}
	t.Run("consomme", func(t *testing.T) {
		t.Parallel()
		b := labtest.New(t, lab.Options{Mode: lab.Consomme})
		comesTo(t, "without wslmirror", b.WSL, closed, "refused")
		d := start(t, b.WSL)
		d.awaitState(status.Active)
		comesTo(t, "with wslmirror", b.WSL, closed, "refused")
		if strings.Contains(ruleset(t, b.WSL), "chain refuse") {
			t.Error("there is a chain refuse")
		}
		if got := d.direction(status.ClosedPorts); got.Active || got.Reason == "" {
			t.Errorf("status: %+v", got)
		}
	})
}

// The flow of a client that gave up before wslmirror started outlives the client. Another
// client with the same source port is refused all the same.
func TestClosedPortRefusesAfterAnEarlierFlow(t *testing.T) {
	t.Parallel()
	const closed = "127.0.0.1:7999"
	b := labtest.New(t, lab.Options{})
	local := fmt.Sprintf("127.0.0.1:%d", b.FirstPort+20)
	if got := connect(b.WSL, local, closed, silence); got != "waiting" {
		t.Fatalf("without wslmirror: %s", got)
	}
	start(t, b.WSL).awaitState(status.Active)
	refusedBy(t, "with wslmirror", b.WSL, local, closed)
}

// direction returns a direction as status reports it.
func (d *daemon) direction(name string) status.Direction {
	d.t.Helper()
	s, _ := d.status()
	for _, dir := range s.Directions {
		if dir.Name == name {
			return dir
		}
	}
	d.t.Fatalf("status has no direction %s: %+v", name, s.Directions)
	panic("unreachable")
}

// listenWithBacklog listens with room for one connection, and accepts none until accept is
// called.
func listenWithBacklog(t *testing.T, h *lab.Host, port int) (accept func()) {
	t.Helper()
	var fd int
	err := h.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err = unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		return unix.Listen(fd, 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	t.Cleanup(func() {
		unix.Shutdown(fd, unix.SHUT_RDWR) // wakes accept
		accepting.Wait()
		unix.Close(fd)
	})
	return func() {
		accepting.Go(func() {
			for {
				c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
				if err == nil {
					unix.Close(c)
				} else if err != unix.EINTR && err != unix.ECONNABORTED {
					return
				}
			}
		})
	}
}

// withAndWithout runs a test on two benches, the second with wslmirror.
func withAndWithout(t *testing.T, opts lab.Options, test func(t *testing.T, b *lab.Bench)) {
	for name, with := range map[string]bool{"without wslmirror": false, "with wslmirror": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, opts)
			if with {
				start(t, b.WSL).awaitState(status.Active)
				defer func() {
					if n := counted(t, b.WSL, askedAgain); n != 0 {
						t.Errorf("counted %d refusals", n)
					}
				}()
			}
			test(t, b)
		})
	}
}

// A server with a full backlog drops SYNs too. Its clients are not refused.
func TestBusyServerIsNotRefused(t *testing.T) {
	withAndWithout(t, lab.Options{Ports: 4096}, func(t *testing.T, b *lab.Bench) {
		var servers sync.WaitGroup
		defer servers.Wait()
		for port, server := range map[int]*lab.Host{9000: b.WSL, 9001: b.Windows} {
			accept := listenWithBacklog(t, server, port)
			c := crowd{N: 200, Port: port, Wait: labtest.Patience()}
			come := c.start(t, b)
			servers.Go(func() {
				// By then all clients without room have retransmitted their SYN twice.
				<-time.After(2500 * time.Millisecond)
				accept()
				allCome(t, "to a server of "+server.Name, c, come, "connected")
			})
		}
	})
}

// Clients wait for a server that has answered before and restarts.
func TestRestartingServerIsNotRefused(t *testing.T) {
	withAndWithout(t, lab.Options{}, func(t *testing.T, b *lab.Bench) {
		var servers sync.WaitGroup
		defer servers.Wait()
		for addr, server := range map[string]*lab.Host{"127.0.0.1:9000": b.WSL, "127.0.0.1:9001": b.Windows} {
			s, err := server.ServeEcho("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			comesTo(t, "before", b.WSL, addr, "connected")
			s.Close() // fails if a connection ends at this moment
			servers.Go(func() {
				<-time.After(5 * time.Second)
				if _, err := server.ServeEcho("tcp", addr); err != nil {
					t.Error(err)
				}
			})
			servers.Go(func() {
				if got := connect(b.WSL, "", addr, labtest.Patience()); got != "connected" {
					t.Errorf("a client of %s that did not wait: %s", server.Name, got)
				}
				comesTo(t, "afterwards", b.WSL, addr, "connected")
			})
		}
	})
}

// A server that starts on a port that has refused is reachable. From the same source port
// it is reachable as soon as the table has forgotten the refused SYN, after 3.5 seconds.
func TestServerOnAPortThatRefused(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	const addr = "127.0.0.1:9000"
	local := fmt.Sprintf("127.0.0.1:%d", b.FirstPort+20)
	refusedBy(t, "a closed port", b.WSL, local, addr)
	if _, err := b.WSL.ServeEcho("tcp", addr); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	refusals := 0
	labtest.Eventually(t, "the same source port connects", func() bool {
		switch got := connect(b.WSL, local, addr, patience); got {
		case "connected":
			return true
		case "refused":
			refusals++
		default:
			t.Fatal(got)
		}
		return false
	})
	// The refusal itself came a second after the first SYN.
	if took := time.Since(began); took > lab.Scaled(3500*time.Millisecond) {
		t.Errorf("the same source port was refused for %v", took)
	}
	t.Logf("connected after %v and %d refusals", time.Since(began), refusals)
	comesTo(t, "another source port", b.WSL, addr, "connected")

	// After another source port has connected, the first one is not refused either.
	const other = "127.0.0.1:9001"
	local = fmt.Sprintf("127.0.0.1:%d", b.FirstPort+30) // this port is not in TIME_WAIT
	refusedBy(t, "a closed port", b.WSL, local, other)
	if _, err := b.WSL.ServeEcho("tcp", other); err != nil {
		t.Fatal(err)
	}
	comesTo(t, "another source port at once", b.WSL, other, "connected")
	if got := connect(b.WSL, local, other, patience); got != "connected" {
		t.Errorf("the same source port after an answer: %s", got)
	}
}

// A client that retries often, with short timeouts and few source ports, like a health
// check, reaches a server within seconds after it has started. If the refusal depended on a
// mark of the flow, such a client would be refused forever.
func TestImpatientClientReachesANewServer(t *testing.T) {
	const addr = "127.0.0.1:9000"
	for _, with := range []bool{false, true} {
		t.Run(fmt.Sprintf("with wslmirror %v", with), func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{})
			if with {
				start(t, b.WSL).awaitState(status.Active)
			}
			ask := time.NewTicker(100 * time.Millisecond)
			defer ask.Stop()
			n := 0
			poll := func() bool {
				<-ask.C
				n++
				local := fmt.Sprintf("127.0.0.1:%d", int(b.FirstPort)+20+n%3)
				return connect(b.WSL, local, addr, 100*time.Millisecond) == "connected"
			}
			for began := time.Now(); time.Since(began) < 4*time.Second; {
				if poll() {
					t.Fatal("connected to a closed port")
				}
			}
			if _, err := b.WSL.ServeEcho("tcp", addr); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			labtest.Eventually(t, "it connects", poll)
			if took := time.Since(began); took > lab.Scaled(5*time.Second) {
				t.Errorf("connected only after %v", took)
			} else {
				t.Logf("connected after %v", took)
			}
		})
	}
}

// Only packets that go to a closed port of 127.0.0.1 through Windows are refused.
func TestRefusalLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	for _, proto := range []string{"tcp", "udp"} {
		if err := engine.Publish(proto, "0.0.0.0:8080"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:12345"); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{
		"add table ip users",
		"add chain ip users redirects { type nat hook output priority -100; }",
		"add rule ip users redirects ip daddr 127.0.0.1 tcp dport 9000 redirect to :12345",
		"add rule ip users redirects ip daddr 127.0.0.1 tcp dport 9001 redirect to :12346", // this port is closed
		"add chain ip users drops { type filter hook output priority filter; }",
		"add rule ip users drops ip daddr 127.0.0.1 tcp dport 9002 drop",
	} {
		if _, err := b.WSL.Run("nft", command); err != nil {
			t.Fatal(err)
		}
	}
	v6 := func() string { // like connect
		var got string
		err := b.WSL.Do(func() error {
			c, err := net.DialTimeout("tcp6", "[::1]:7999", patience)
			switch {
			case err == nil:
				c.Close()
				got = "connected"
			case errors.Is(err, unix.ECONNREFUSED):
				got = "refused"
			default:
				got = err.Error()
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	datagram := func(h *lab.Host, addr string) string {
		_, err := h.Ask("udp", addr, silence)
		var network net.Error
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			return "refused"
		case errors.As(err, &network) && network.Timeout():
			return "waiting"
		}
		return fmt.Sprint(err)
	}
	check := func(when string) {
		t.Helper()
		if got := v6(); got != "refused" {
			t.Errorf("%s: ::1: %s", when, got)
		}
		var clients sync.WaitGroup // most of them wait
		comes := func(h *lab.Host, addr, want string) {
			clients.Go(func() { comesTo(t, when, h, addr, want) })
		}
		comes(b.WSL, "127.0.0.2:7999", "refused")
		comes(engine.Container, "127.0.0.1:7999", "refused")
		comes(engine.Container, "172.17.0.1:7999", "refused")
		comes(b.WSL, "172.17.0.2:7999", "refused")
		comes(b.LAN, "192.0.2.2:7999", "refused")
		comes(b.WSL, "127.0.0.1:9002", "waiting") // the user's rule drops it
		for host, addr := range map[*lab.Host]string{b.WSL: "127.0.0.2:7999", engine.Container: "127.0.0.1:7999"} {
			clients.Go(func() {
				if got := datagram(host, addr); got != "refused" {
					t.Errorf("%s: %s, UDP to %s: %s", when, host.Name, addr, got)
				}
			})
		}
		clients.Wait()
		for _, proto := range []string{"tcp", "udp"} {
			answers(t, when, b.WSL, proto, "8080", "container")
		}
		answers(t, when, b.WSL, "tcp", "9000", "WSL")
	}
	check("without wslmirror")
	comesTo(t, "without wslmirror, redirected to a closed port", b.WSL, "127.0.0.1:9001", "waiting")
	closedUDP := datagram(b.WSL, "127.0.0.1:7999")

	d := start(t, b.WSL)
	d.awaitState(status.Active)
	check("with wslmirror")
	if n := counted(t, b.WSL, askedAgain); n != 0 {
		t.Errorf("counted %d refusals", n)
	}
	if got := datagram(b.WSL, "127.0.0.1:7999"); got != closedUDP {
		t.Errorf("UDP to a closed port: %s, was %s", got, closedUDP)
	}
	refusedBy(t, "redirected to a closed port", b.WSL, "", "127.0.0.1:9001")
}
