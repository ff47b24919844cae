package packaging

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/nft"
)

// Common code for the tests of a booted distribution: the service as systemd and its users
// see it, its journal, and the table in the kernel.

// patience limits every wait.
var patience = labtest.Patience()

// A service is wslmirror in a booted distribution of a bench.
type service struct {
	tb testing.TB
	*lab.Distro
	bench *lab.Bench
}

// boot boots distributions side by side in the network of one WSL VM.
func boot(tb testing.TB, b *lab.Bench, names ...string) []service {
	tb.Helper()
	services, errs := make([]service, len(names)), make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			d, err := b.WSL.Boot(name)
			services[i], errs[i] = service{tb, d, b}, err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		tb.Fatal(err)
	}
	return services
}

// run runs a program as root and fails the test if the program fails.
func (s service) run(args ...string) string {
	s.tb.Helper()
	out, err := s.Run(args...)
	if err != nil {
		s.tb.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// unpack installs a package for this machine with dpkg.
func (s service) unpack(deb string) {
	s.tb.Helper()
	if err := s.CopyIn(deb, "/opt/package.deb"); err != nil {
		s.tb.Fatal(err)
	}
	s.run("dpkg", "--install", "/opt/package.deb")
	s.run("rm", "/opt/package.deb")
}

// enabled installs a package, and enables and starts the service as users do.
func (s service) enabled(deb string) {
	s.tb.Helper()
	s.unpack(deb)
	s.run("systemctl", "enable", "--now", "wslmirror")
}

// show returns a property of the unit.
func (s service) show(property string) string {
	s.tb.Helper()
	return s.run("systemctl", "show", "--property="+property, "--value", "wslmirror")
}

// moment returns a property of the unit that is a time, on the clock that all distributions
// share: CLOCK_MONOTONIC.
func (s service) moment(property string) time.Duration {
	s.tb.Helper()
	µs, err := strconv.ParseInt(s.show(property+"TimestampMonotonic"), 10, 64)
	if err != nil {
		s.tb.Fatal(err)
	}
	return time.Duration(µs) * time.Microsecond
}

// status returns the status that an ordinary user sees. It ignores the exit code, which
// only repeats that the state is not active.
func (s service) status() (snapshot status.Snapshot) {
	s.tb.Helper()
	out, err := s.RunAs("user", "wslmirror", "status", "--json")
	if json.Unmarshal([]byte(out), &snapshot) != nil {
		s.tb.Fatalf("status prints %q, %v", out, err)
	}
	return snapshot
}

// await waits until a user sees that state, from a process other than not.
func (s service) await(state status.State, not int) status.Snapshot {
	s.tb.Helper()
	var now status.Snapshot
	came := false
	defer func() {
		if !came {
			s.tb.Logf("the last state was %+v\n%s", now, s.run("journalctl", "--unit=wslmirror"))
		}
	}()
	labtest.Eventually(s.tb, fmt.Sprintf("%s is %s", s.Name, state), func() bool {
		now = s.status()
		return now.State == state && now.PID != not
	})
	came = true
	return now
}

// An entry is an entry of the journal, with its fields.
type entry map[string]any

func (e entry) field(name string) string {
	value, _ := e[name].(string) // an array if it is not text
	return value
}

// journal returns the journal of the unit, including systemd's own messages.
func (s service) journal() []entry {
	s.tb.Helper()
	return entries(s.tb, s.run("journalctl", "--unit=wslmirror", "--output=json"))
}

// follow returns a function that waits for the end of the distribution and returns the
// journal of the unit until then. The journal is sent over the network, because a
// distribution that shuts down waits for programs that Run has started.
func (s service) follow() func() []entry {
	s.tb.Helper()
	var listener *net.TCPListener
	err := s.bench.WSL.Do(func() (err error) {
		listener, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}) // not 127.0.0.1, which Windows shares
		return err
	})
	if err != nil {
		s.tb.Fatal(err)
	}
	defer listener.Close()
	listener.SetDeadline(time.Now().Add(patience))
	host, port, _ := net.SplitHostPort(listener.Addr().String())
	until := s.journal()
	// Without default dependencies the unit is not stopped, but killed at the very end.
	s.run("systemd-run", "--quiet", "--property=DefaultDependencies=no", "bash", "-c",
		"exec journalctl --quiet --unit=wslmirror --output=json --follow "+
			"--after-cursor='"+until[len(until)-1].field("__CURSOR")+"' >/dev/tcp/"+host+"/"+port)
	conn, err := listener.Accept()
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { conn.Close() })
	return func() []entry {
		s.tb.Helper()
		conn.SetReadDeadline(time.Now().Add(patience))
		journal, err := io.ReadAll(conn)
		if err != nil {
			s.tb.Fatal(err)
		}
		return append(until, entries(s.tb, string(journal))...)
	}
}

func entries(tb testing.TB, journal string) (all []entry) {
	tb.Helper()
	for line := range strings.Lines(journal) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			tb.Fatalf("journal entry %q: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

// states returns the states that the daemon reported, in order.
func states(journal []entry) string {
	var all []string
	for _, e := range journal {
		if state := e.field("WSLMIRROR_STATE"); state != "" {
			all = append(all, state)
		}
	}
	return strings.Join(all, " ")
}

// calm fails the test if an entry is a warning or worse.
func calm(tb testing.TB, name string, journal []entry) {
	tb.Helper()
	if len(journal) == 0 {
		tb.Errorf("%s: the journal is empty", name)
	}
	for _, e := range journal {
		if p, err := strconv.Atoi(e.field("PRIORITY")); err != nil || p <= 4 {
			tb.Errorf("%s: an entry of priority %q: %s", name, e.field("PRIORITY"), e.field("MESSAGE"))
		}
	}
}

// A watch polls which process owns the table in the kernel. There is no event when a table
// disappears with its owner's socket (nf_tables_api.c, nft_rcv_nl_event).
type watch struct {
	end  func() error
	back chan struct{}   // closed after the first gap
	gaps []time.Duration // from the last sight of one table to the first sight of the next
}

// every is the interval of a watch, and so its precision.
const every = 100 * time.Microsecond

// watchTable starts a watch while there is a table.
func watchTable(tb testing.TB, b *lab.Bench) *watch {
	tb.Helper()
	conn, err := b.WSL.NFT(nftables.AsLasting())
	if err != nil {
		tb.Fatal(err)
	}
	look := func() (*nftables.Table, error) {
		return conn.ListTableOfFamily(nft.TableName, nftables.TableFamilyIPv4)
	}
	first, err := look()
	if err != nil {
		conn.CloseLasting()
		tb.Fatalf("no table to watch: %v", err)
	}
	w := &watch{back: make(chan struct{})}
	stop, done := make(chan struct{}), make(chan error, 1)
	w.end = sync.OnceValue(func() error {
		close(stop)
		return <-done
	})
	tb.Cleanup(func() { w.end() })
	go func() {
		defer conn.CloseLasting()
		away := false
		for owner, seen := first.Owner, time.Now(); ; {
			select {
			case <-stop:
				done <- nil
				return
			case <-time.After(every):
			}
			table, err := look()
			switch {
			case errors.Is(err, unix.ENOENT):
				away = true
				continue
			case err != nil:
				done <- fmt.Errorf("watch the table: %w", err)
				return
			case away || table.Owner != owner:
				if w.gaps = append(w.gaps, time.Since(seen)); len(w.gaps) == 1 {
					close(w.back)
				}
			}
			away, owner, seen = false, table.Owner, time.Now()
		}
	}()
	return w
}

// await waits until the table has disappeared and is back. Asking the daemons instead would
// wake them: they read the kernel before they answer.
func (w *watch) await(tb testing.TB) {
	tb.Helper()
	labtest.Receive(tb, "a table takes the place of the one that was there", w.back)
}

// gap ends the watch. It returns how long the table was away; the true time is shorter by
// up to two intervals. The table must have been away exactly once.
func (w *watch) gap(tb testing.TB) time.Duration {
	tb.Helper()
	w.await(tb)
	if err := w.end(); err != nil {
		tb.Fatal(err)
	}
	if len(w.gaps) != 1 {
		tb.Fatalf("the table was away %d times: %v", len(w.gaps), w.gaps)
	}
	return w.gaps[0].Round(100 * time.Microsecond)
}
