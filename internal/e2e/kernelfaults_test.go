package e2e

import (
	"maps"
	"os"
	"os/exec"
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

// errnos are the errors with which calls fail. EAGAIN is not among them: no kernel returns
// it for a socket that is ready.
var errnos = []unix.Errno{
	unix.EPERM, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EBUSY, unix.EIO, unix.EMFILE, refused,
}

// lives runs daemons on a bench, one after the other, each from start to stop.
type lives struct {
	t      *testing.T
	bench  *lab.Bench
	path   string
	before string // the state without a daemon
	during string // the state with a daemon
}

func newLives(t *testing.T, path string) *lives {
	t.Helper()
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
	lateLoopback0(t, b, "8080") // a rule of others that needs a rule of ours ahead of it
	l := &lives{t: t, bench: b, path: path}
	l.plug()
	l.before = world(t, b.WSL)
	return l
}

// plug removes loopback0 and adds a new one.
func (l *lives) plug() {
	l.t.Helper()
	if err := l.bench.RemoveLoopback0(); err != nil {
		l.t.Fatal(err)
	}
	if err := l.bench.AddLoopback0(); err != nil {
		l.t.Fatal(err)
	}
}

// A life is the record of one daemon.
type life struct {
	seen, hit []string
	restarts  int
	slowest   time.Duration
	log       string
}

// lead runs a daemon from start to stop, on a tap, while calls fail.
func (l *lives) lead(fault func(n int, call string) unix.Errno) life {
	l.t.Helper()
	return l.leadWhile(fault, func(*daemon, *tap) { l.plug() })
}

func (l *lives) leadWhile(fault func(n int, call string) unix.Errno, change func(*daemon, *tap)) (out life) {
	t := l.t
	t.Helper()
	var d *daemon
	var p *tap
	served := make(chan error, 1)
	begin := func() {
		t.Helper()
		d = launch(t, l.bench.WSL, func(args ...string) *exec.Cmd {
			var cmd *exec.Cmd
			cmd, p = onTap(t, args...)
			// Collect garbage often, to find descriptors that are closed twice.
			cmd.Env = append(cmd.Env, "GOGC=1")
			return cmd
		}, "--path", l.path)
		so := len(out.seen)
		if fault != nil {
			p.setFault(func(n int, call string) unix.Errno { return fault(so+n, call) })
		}
		go func() { served <- p.serve(d.proc) }()
	}
	end := func() {
		t.Helper()
		if err := <-served; err != nil {
			t.Error(err)
		}
		seen, hit := p.calls()
		out.seen, out.hit, out.log = append(out.seen, seen...), append(out.hit, hit...), out.log+d.log.String()
		defer d.log.Reset()
		if strings.Contains(d.log.String(), "goroutine ") {
			t.Errorf("crashed after %q:\n%s", out.hit, out.log)
		}
	}
	// settle waits for the state that a daemon without faults reaches. It reads the kernel,
	// because a request would wake the daemon.
	settle := func(when string) {
		t.Helper()
		began := time.Now()
		for {
			got := world(t, l.bench.WSL)
			l.mustBeWhole(got)
			s, err := status.Read(d.dir)
			if l.during == "" && err == nil && s.State == status.Active && !strings.Contains(paths(s), "open yet") {
				l.during = world(t, l.bench.WSL)
				continue
			}
			if got == l.during && err == nil && s.State == status.Active {
				break
			}
			select {
			case <-d.proc.Done():
				err := d.proc.Wait()
				end()
				if d.proc.Cmd.ProcessState.ExitCode() != exitFailure || !strings.Contains(out.log, "\nhint: ") || when != "the start" {
					t.Fatalf("%s: ended: %v, after %q:\n%s", when, err, out.hit, out.log)
				}
				out.restarts++ // like the unit
				begin()
				continue
			default:
			}
			if time.Since(began) > labtest.Patience() {
				_, hit := p.calls()
				d.proc.Stop(unix.SIGABRT) // so that it prints where it hangs
				t.Fatalf("%s: does not recover from %q: %v, %+v\n%s\n%s", when, hit, err, s, difference(l.during, got), d.log)
			}
			time.Sleep(5 * time.Millisecond)
		}
		out.slowest = max(out.slowest, time.Since(began))
	}
	begin()
	settle("the start")
	change(d, p)
	settle("the change")
	err := d.proc.Stop(unix.SIGTERM)
	end()
	if err != nil {
		t.Errorf("the stop: %v, after %q:\n%s", err, out.hit, out.log)
	}
	if slices.ContainsFunc(out.hit, matters) && !warns(out.log) && out.restarts == 0 {
		t.Errorf("the log does not say that %q failed:\n%s", out.hit, out.log)
	}
	if after := world(t, l.bench.WSL); after != l.before {
		t.Errorf("after %q it leaves\n%s\n%s", out.hit, difference(l.before, after), out.log)
	}
	return out
}

// matters reports whether the log must mention a call that failed. It need not if the call
// was interrupted and is repeated on the spot, or if events were lost, which is only one
// more event. Nor if nothing depends on the call: requests of clients, the time zone, extra
// checks, and options that the libraries set but do not need.
func matters(hit string) bool {
	spared := []string{"read", "connect", "accept4", "newfstatat", "fchmodat", "getsockopt", "setsockopt", "getpeername"}
	return !waits[strings.TrimSuffix(hit, " held")] && !slices.Contains(spared, kindOf(hit)) && !strings.HasSuffix(hit, " EINTR") && hit != "recvfrom ENOBUFS"
}

// mustBeWhole fails the test if our table exists but differs from that of a daemon without
// faults.
func (l *lives) mustBeWhole(got string) {
	l.t.Helper()
	half := func(world string) bool {
		f := form(world)
		return f != "" && l.during != "" && f != form(l.during)
	}
	// A dump during a transaction may lack rules (nft/ruleset/read.go).
	if half(got) && half(world(l.t, l.bench.WSL)) && half(world(l.t, l.bench.WSL)) {
		l.t.Errorf("half a table:\n%s", difference(form(l.during), form(got)))
	}
}

var (
	ourTable = regexp.MustCompile(`(?s)table ip wslmirror \{.*?\n\}\n`)
	// The elements of its sets and its link may differ.
	ourElements = regexp.MustCompile(`(?s)\t\telements = \{.*?\}\n`)
	ourLink     = regexp.MustCompile(`\b[io]if (?:!= )?(?:"loopback0"|\d+)`)
)

// form returns the structure of our table; "" if it does not exist.
func form(world string) string {
	return ourLink.ReplaceAllString(ourElements.ReplaceAllString(ourTable.FindString(world), ""), "loopback0")
}

// A check of mustBeWhole: a table that lacks a part has another form; a table for another
// loopback0 with other ports does not.
func TestForm(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	whole := world(t, b.WSL)
	if form(whole) == "" {
		t.Fatalf("no table is seen in\n%s", whole)
	}
	for part, same := range map[string]bool{
		`iif "loopback0" ip daddr 127.0.0.1`:         true,
		"elements = { ":                              true,
		"chain postrouting {":                        false,
		`counter masquerade comment "from localhost`: false,
		"\tset guarded {":                            false,
	} {
		other := strings.Replace(whole, part, strings.NewReplacer(`"loopback0"`, "4711", "{ ", "{ tcp . 1, ", "chain", "x", "counter", "x", "guarded", "x").Replace(part), 1)
		if other == whole {
			t.Errorf("there is no %q in\n%s", part, whole)
		} else if (form(other) == form(whole)) != same {
			t.Errorf("with another %q the form is\n%s", part, form(other))
		}
	}
}

// One call in a hundred fails, of any kind, with each error in turn, and at least one call
// of each kind. With WSLMIRROR_FAULTS=all, each of the first calls of a life fails with
// each of the errors, which takes a quarter of an hour.
func TestEveryCallMayFail(t *testing.T) {
	const apart = 101 // more than two passes, so that the daemon has recovered before the next error
	every, rounds := 9, 1
	if os.Getenv("WSLMIRROR_FAULTS") == "all" {
		every, rounds = 1, len(errnos)
	}
	for _, path := range []string{status.PathProxy, status.PathDirect} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			l := newLives(t, path)
			calm := l.lead(nil)
			var all life
			number := 0
			for round := range rounds {
				for first := 0; first < apart; first += every {
					number++
					out := l.lead(func(n int, _ string) unix.Errno {
						if n%apart != first {
							return 0
						}
						return errnos[(n/apart+first/every+round)%len(errnos)]
					})
					if len(out.seen) > 5*len(calm.seen) {
						t.Errorf("%d calls in a life with %q:\n%s", len(out.seen), out.hit, out.log)
					}
					if t.Failed() {
						return
					}
					all.hit = append(all.hit, out.hit...)
					all.restarts += out.restarts
					all.slowest = max(all.slowest, out.slowest)
				}
			}
			kinds := countKinds(all.hit)
			// Kinds of call that the stride has missed fail in a life of their own.
			for kind, n := range countKinds(calm.seen) {
				if kinds[kind] > 0 {
					continue
				}
				number++
				met := 0
				out := l.lead(func(_ int, call string) unix.Errno {
					if kindOf(call) != kind {
						return 0
					}
					if met++; met != (n+1)/2 {
						return 0
					}
					return unix.EIO
				})
				if kinds[kind] = len(out.hit); len(out.hit) == 0 {
					t.Errorf("no %s was made to fail", kind)
				}
				all.hit = append(all.hit, out.hit...)
				all.restarts += out.restarts
				all.slowest = max(all.slowest, out.slowest)
			}
			t.Logf("%d calls in a life without faults; %d failed in %d lives; slowest recovery %v; started again %d times; %v",
				len(calm.seen), len(all.hit), number, all.slowest.Round(time.Millisecond), all.restarts, kinds)
			for _, kind := range []string{"socket", "sendto", "sendmsg", "recvfrom", "recvmsg"} {
				if kinds[kind] == 0 {
					t.Errorf("a life without faults has no %s: the tap does not see it", kind)
				}
			}
		})
	}
}

// kindOf returns the system call in an entry of a tap's seen or hit.
func kindOf(call string) string {
	kind, _, _ := strings.Cut(call, " ")
	return kind
}

func countKinds(calls []string) map[string]int {
	kinds := map[string]int{}
	for _, c := range calls {
		kinds[kindOf(c)]++
	}
	return kinds
}

// For each kind of message, once: a request that the kernel never answers, or a change of
// the ruleset that takes it too long. The daemon stops waiting, logs it, and recovers by
// itself.
//
// A change that the kernel accepts and never carries out is not tested: the kernel carries
// it out before sendmsg returns, and google/nftables relies on that (receiveSeq in its
// conn.go).
func TestReadThatTimesOut(t *testing.T) {
	for _, path := range []string{status.PathProxy, status.PathDirect} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			l := newLives(t, path)
			counts := map[string]int{}
			for _, call := range l.lead(nil).seen {
				if strings.Contains(call, " 0x") {
					counts[call]++
				}
			}
			for _, message := range slices.Sorted(maps.Keys(counts)) {
				l.silence(message, (counts[message]+1)/2)
				if t.Failed() {
					return
				}
			}
			if len(counts) < 12 {
				t.Errorf("a life without faults has only the messages %v", counts)
			}
		})
	}
}

// waits are the messages for which the daemon waits longer than they are held here. For the
// first table the kernel may have to load modules, and an empty batch is sent in order to
// wait for the end of another program's change.
var waits = map[string]bool{"sendmsg batch 0xa00": true, "sendto batch 0x11": true}

// silence runs a life in which the kernel does not answer the nth message of a kind.
func (l *lives) silence(message string, n int) {
	l.t.Helper()
	fault := swallowed
	if strings.Contains(message, batch) {
		fault = held
	}
	met := 0
	out := l.lead(func(_ int, call string) unix.Errno {
		if call != message {
			return 0
		}
		if met++; met != n {
			return 0
		}
		return fault
	})
	l.t.Logf("%s, the %d.: as it should be after %v", message, n, out.slowest.Round(time.Millisecond))
	if len(out.hit) != 1 || !warns(out.log) && !waits[message] {
		l.t.Errorf("%q was not answered; the log:\n%s", out.hit, out.log)
	}
}

// warns reports whether a log contains a warning or an error.
func warns(log string) bool {
	return strings.Contains(log, "level=warning") || strings.Contains(log, "level=error")
}

// A call that keeps failing causes neither a busy loop nor a flood of log lines. When it
// works again, the state is restored.
func TestFaultThatStays(t *testing.T) {
	l := newLives(t, status.PathDirect)
	for _, fault := range []struct {
		call  string
		errno unix.Errno
	}{
		{"socket", unix.EMFILE}, {"getsockname", unix.ENOBUFS}, {"setsockopt", unix.ENOMEM}, {"epoll_ctl", unix.ENOSPC},
		{"sendto", unix.ENOBUFS}, {"sendto", refused}, {"sendmsg", unix.EPERM}, {"sendmsg", refused},
		{"sendmsg batch 0xa0", refused}, // no table can be changed, but everything else can
		{"recvfrom", unix.ENOBUFS}, {"recvfrom", unix.EIO}, {"openat", unix.EROFS}, {"write", unix.ENOSPC}, {"renameat", unix.EIO},
	} {
		var before, during []string
		var watched time.Duration
		out := l.leadWhile(nil, func(_ *daemon, p *tap) {
			before, _ = p.calls()
			began := time.Now()
			p.setFault(func(_ int, call string) unix.Errno {
				if strings.HasPrefix(call, fault.call) {
					return fault.errno
				}
				return 0
			})
			l.plug()
			plugged := time.Now()
			// In this time a busy loop makes more calls than allowed.
			time.Sleep(500 * time.Millisecond)
			labtest.Eventually(t, "a call fails", func() bool { // some calls are made last
				var hit []string
				during, hit = p.calls()
				// A daemon that has to wait for a processor looks only when the new loopback0
				// is there. It then keeps its table, and some calls are not made.
				if len(hit) == 0 && time.Since(plugged) > time.Second {
					l.plug()
					plugged = time.Now()
				}
				return len(hit) > 0
			})
			watched = time.Since(began)
			p.setFault(nil)
			l.plug()
		})
		calls, lines := len(during)-len(before), strings.Count(out.log, "\n")
		rules := 0 // each changed ip rule is an event
		for _, call := range during[len(before):] {
			if call == "sendto 0x20" || call == "sendto 0x21" { // RTM_NEWRULE, RTM_DELRULE
				rules++
			}
		}
		t.Logf("%s %s: %d calls while %d failed, %d of them for ip rules, %d lines in the log", fault.call, unix.ErrnoName(fault.errno), calls, len(out.hit), rules, lines)
		if len(out.hit) == 0 {
			t.Errorf("no %s was made to fail", fault.call)
		}
		// Repeated actions have a limit for each second.
		limit := func(most int) int { return most * (1 + int(watched/time.Second)) }
		if calls > limit(3000) || rules > limit(8) || lines > limit(40) || !warns(out.log) && slices.ContainsFunc(out.hit, matters) {
			t.Errorf("the log of it:\n%s", out.log)
		}
	}
}

// difference returns the lines that only one of two texts contains.
func difference(before, after string) string {
	var d strings.Builder
	b, a := strings.Split(before, "\n"), strings.Split(after, "\n")
	for i, lines := range [][][]string{{b, a}, {a, b}} {
		for _, line := range lines[0] {
			if !slices.Contains(lines[1], line) {
				d.WriteString(string("-+"[i]) + line + "\n")
			}
		}
	}
	return d.String()
}
