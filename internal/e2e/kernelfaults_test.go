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

// errnos are the errors that calls are made to fail with. EAGAIN is not one: of a
// socket that is ready it would be a lie that no kernel tells.
var errnos = []unix.Errno{
	unix.EPERM, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EBUSY, unix.EIO, unix.EMFILE, refused,
}

// lives are one daemon after the other on a bench, each from start to stop.
type lives struct {
	t      *testing.T
	bench  *lab.Bench
	path   string
	before string // the world without a daemon
	during string // and with one
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
	lateLoopback0(t, b, "8080") // a rule of others to be ahead of
	l := &lives{t: t, bench: b, path: path}
	l.plug()
	l.before = world(t, b.WSL)
	return l
}

// plug takes loopback0 away and brings another one.
func (l *lives) plug() {
	l.t.Helper()
	if err := l.bench.RemoveLoopback0(); err != nil {
		l.t.Fatal(err)
	}
	if err := l.bench.AddLoopback0(); err != nil {
		l.t.Fatal(err)
	}
}

// A life is what came of a daemon.
type life struct {
	seen, hit []string
	restarts  int
	slowest   time.Duration
	log       string
}

// lead leads a daemon through its life, on a tap, while calls fail.
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
			// The collector runs often, and finds what was closed twice.
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
	// settle waits for what a daemon without faults comes to. It asks the kernel:
	// to ask the daemon would wake it.
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
				out.restarts++ // as the unit has it
				begin()
				continue
			default:
			}
			if time.Since(began) > labtest.Patience() {
				_, hit := p.calls()
				d.proc.Stop(unix.SIGABRT) // by which it says where it hangs
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

// matters reports whether a call that failed is worth a word in the log. What is
// interrupted is done again in place; lost events are one more event; and of what a
// client asks for, of the time zone, of what is looked at to be sure, and of the
// options that the libraries set and can do without, nothing depends.
func matters(hit string) bool {
	spared := []string{"read", "connect", "accept4", "newfstatat", "fchmodat", "getsockopt", "setsockopt", "getpeername"}
	return !waits[strings.TrimSuffix(hit, " held")] && !slices.Contains(spared, kindOf(hit)) && !strings.HasSuffix(hit, " EINTR") && hit != "recvfrom ENOBUFS"
}

// mustBeWhole fails the test if our table is there and is not one that a daemon
// without faults has.
func (l *lives) mustBeWhole(got string) {
	l.t.Helper()
	half := func(world string) bool {
		f := form(world)
		return f != "" && l.during != "" && f != form(l.during)
	}
	// A dump that meets a transaction may leave rules out (nft/ruleset/read.go).
	if half(got) && half(world(l.t, l.bench.WSL)) && half(world(l.t, l.bench.WSL)) {
		l.t.Errorf("half a table:\n%s", difference(form(l.during), form(got)))
	}
}

var (
	ourTable = regexp.MustCompile(`(?s)table ip wslmirror \{.*?\n\}\n`)
	// What is in its sets, and which link it is for, is another matter.
	ourElements = regexp.MustCompile(`(?s)\t\telements = \{.*?\}\n`)
	ourLink     = regexp.MustCompile(`\b[io]if (?:!= )?(?:"loopback0"|\d+)`)
)

// form is what our table consists of; "" if it is not there.
func form(world string) string {
	return ourLink.ReplaceAllString(ourElements.ReplaceAllString(ourTable.FindString(world), ""), "loopback0")
}

// What mustBeWhole leans on: a table without a part is another form, and one for
// another loopback0 with other ports is not.
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

// One call in a hundred fails, whichever it is, with one error after the other,
// and at least one of each kind.
// With WSLMIRROR_FAULTS=all each of the first calls of a life does, with each of
// the errors, which takes a quarter of an hour.
func TestEveryCallMayFail(t *testing.T) {
	const apart = 101 // more than two passes, so that one error finds it healthy
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
			// The kinds that the stride has passed over fail in a life of their own.
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

// kindOf is the system call of what a tap has seen or hit.
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

// A question that the kernel never answers, and a change of the ruleset for which it
// takes too long: each kind of message once. The daemon stops waiting, the log says
// so, and it recovers by itself.
//
// A change that the kernel takes and never carries out is not among these: it is
// carried out before sendmsg returns, and google/nftables relies on that
// (receiveSeq in its conn.go).
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

// waits are the messages for which the daemon waits longer than they are held here:
// for the first table the kernel may have to load modules, and an empty batch is
// there to wait for the end of somebody else's change.
var waits = map[string]bool{"sendmsg batch 0xa00": true, "sendto batch 0x11": true}

// silence leads a life in which the kernel does not answer the nth message of a
// kind.
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

// warns reports whether a log has a reason of something that went wrong.
func warns(log string) bool {
	return strings.Contains(log, "level=warning") || strings.Contains(log, "level=error")
}

// A call that goes on failing makes neither a busy loop nor a flood of words, and
// when it works again all is as it should be.
func TestFaultThatStays(t *testing.T) {
	l := newLives(t, status.PathDirect)
	for _, fault := range []struct {
		call  string
		errno unix.Errno
	}{
		{"socket", unix.EMFILE}, {"getsockname", unix.ENOBUFS}, {"setsockopt", unix.ENOMEM}, {"epoll_ctl", unix.ENOSPC},
		{"sendto", unix.ENOBUFS}, {"sendto", refused}, {"sendmsg", unix.EPERM}, {"sendmsg", refused},
		{"sendmsg batch 0xa0", refused}, // no table can be changed, and all else can
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
			// A busy loop makes more calls than it may in less than this.
			time.Sleep(500 * time.Millisecond)
			labtest.Eventually(t, "a call fails", func() bool { // some are made when all else is done
				var hit []string
				during, hit = p.calls()
				return len(hit) > 0
			})
			watched = time.Since(began)
			p.setFault(nil)
			l.plug()
		})
		calls, lines := len(during)-len(before), strings.Count(out.log, "\n")
		rules := 0 // changes of ip rules, each of which is an event
		for _, call := range during[len(before):] {
			if call == "sendto 0x20" || call == "sendto 0x21" { // RTM_NEWRULE, RTM_DELRULE
				rules++
			}
		}
		t.Logf("%s %s: %d calls while %d failed, %d of them for ip rules, %d lines in the log", fault.call, unix.ErrnoName(fault.errno), calls, len(out.hit), rules, lines)
		if len(out.hit) == 0 {
			t.Errorf("no %s was made to fail", fault.call)
		}
		// What is done again and again has its limits in each second.
		limit := func(most int) int { return most * (1 + int(watched/time.Second)) }
		if calls > limit(3000) || rules > limit(8) || lines > limit(40) || !warns(out.log) && slices.ContainsFunc(out.hit, matters) {
			t.Errorf("the log of it:\n%s", out.log)
		}
	}
}

// difference is the lines that only one of two texts has.
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
