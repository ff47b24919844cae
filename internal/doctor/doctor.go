// Package doctor finds out what is wrong with a localhost that Windows and Linux share: it
// observes, and then judges what it has seen, each check by a pure function.
//
// It only reads. It sends no packet and connects to no port: a connection from
// Linux to a closed port of 127.0.0.1 hangs for two minutes in mirrored mode
// (WSL#10855). Windows' packets that arrive at ports nobody asked for (WSL#41137) are
// not looked for: nothing in the kernel counts them by port without a rule of its
// own, and Npcap's loopback capture, in Windows, shows them. What it cannot see, for want of rights or of an answer, is a
// value like any other, and leads to the verdict Unknown and never to a guess.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/wslmirror/wslmirror/internal/text"
)

// Timeout bounds everything that a diagnosis waits for.
const Timeout = 4 * time.Second

// A Verdict is what a check comes to.
type Verdict string

// The verdicts, the gravest first.
const (
	Fault         Verdict = "fault"          // something does not work
	Warning       Verdict = "warning"        // something may stop working, or be unsafe
	Unknown       Verdict = "unknown"        // it could not be seen
	OK            Verdict = "ok"             // as it should be
	NotApplicable Verdict = "not applicable" // there is nothing to judge
)

// verdicts are all of them in their order.
var verdicts = []Verdict{Fault, Warning, Unknown, OK, NotApplicable}

// A Check is what came of one check. Its JSON form is another: see checkJSON.
type Check struct {
	Name    string
	Verdict Verdict
	// Seen is what was seen, in one line. Like Do it may contain names from
	// elsewhere, of links and chains, and is not fit for a terminal as it is.
	Seen string
	// Why says what it matters, Do what to type, one command a line. A line that
	// begins with "#" says where.
	Why string
	Do  string
	// Link is a public issue about it.
	Link string
}

// Summary counts the verdicts.
type Summary struct {
	Faults        int `json:"fault"`
	Warnings      int `json:"warning"`
	Unknown       int `json:"unknown"`
	OK            int `json:"ok"`
	NotApplicable int `json:"not_applicable"`
}

// A Report is a diagnosis.
type Report struct {
	// Checks are in the order of their gravity.
	Checks  []Check `json:"checks"`
	Summary Summary `json:"summary"`
	// Seen is what it is made from.
	Seen *Observation `json:"-"`
}

// Run observes and judges. It ends within Timeout, whatever hangs.
//
// All sockets are opened in the network namespace of the process.
func Run(ctx context.Context, cfg Config) Report {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	o := observe(ctx, cfg)
	return Report{Checks: judge(o), Seen: o}.count()
}

// judge runs all checks.
func judge(o *Observation) []Check {
	var list []Check
	for _, c := range checks {
		list = append(list, c.run(o))
	}
	slices.SortStableFunc(list, func(a, b Check) int {
		return cmp.Compare(slices.Index(verdicts, a.Verdict), slices.Index(verdicts, b.Verdict))
	})
	return list
}

func (r Report) count() Report {
	for _, c := range r.Checks {
		*map[Verdict]*int{
			Fault: &r.Summary.Faults, Warning: &r.Summary.Warnings, Unknown: &r.Summary.Unknown,
			OK: &r.Summary.OK, NotApplicable: &r.Summary.NotApplicable,
		}[c.Verdict]++
	}
	return r
}

// A check is one of the checks: what must hold so that it means something, and
// the function that judges.
type check struct {
	name  string
	needs need
	judge func(o *Observation) Check
}

// A need is what a check presupposes, in bits. Where it is missing, another check
// says so, and this one does not apply: one cause, one fault.
type need int

const (
	nothing need = 0
	shared  need = 1 << iota // Windows and Linux share localhost, or should
	mirrors                  // and WSL mirrors the network of Windows
	link                     // loopback0 is there and up
)

func (c check) run(o *Observation) Check {
	out := Check{Verdict: NotApplicable}
	switch {
	case c.needs != nothing && !o.shared():
		out.Seen = "localhost is not shared in this networking mode"
	case c.needs&mirrors != 0 && o.consomme():
		out.Seen = "there is nothing of it in the networking mode consomme"
	case c.needs&link != 0 && o.Net.Err != nil:
		out.Verdict, out.Seen = Unknown, o.Net.Err.Error()
	case c.needs&link != 0 && !o.link().Up:
		out.Seen = o.Iface + " is not up"
	default:
		out = c.judge(o)
	}
	out.Name = c.name
	return out
}

// checks are all checks, in the order in which one would look.
var checks = []check{
	{"wsl", nothing, checkWSL},
	{"port-tracker", nothing, checkTracker},
	{"loopback0", shared, checkLoopback0},
	{"nics", mirrors | link, checkNICs},
	{"table-127", link, checkTable127},
	{"gateway", link, checkGateway},
	{"table-128", mirrors | link, checkTable128},
	{"ip-rules", link, checkRules},
	{"rp-filter", link, checkRPFilter},
	{"accept-local", link, checkAcceptLocal},
	{"route-localnet", link, checkRouteLocalnet},
	{"guard", shared, checkGuard},
	{"wsl-chains", mirrors, checkWSLChains},
	{"port-range", mirrors, checkPortRange},
	{"port-headroom", nothing, checkHeadroom},
	{"kernel", shared, checkKernel},
	{"service", shared, checkService},
	{"table", shared, checkTable},
	{"gist-chain", nothing, checkGist},
	{"instances", nothing, checkInstances},
	{"counters", link, checkCounters},
	{"published-ports", shared, checkPublished},
	{"unsent-ports", mirrors | link, checkUnsent},
	{"mptcp", shared, checkMPTCP},
	{"docker", nothing, checkDocker},
	{"docker-loopback0", link, checkDockerLoopback},
	{"podman", nothing, checkPodman},
	{"directions", link, checkDirections},
	{"input", link, func(o *Observation) Check { return o.checkOwn("input") }},
	{"output", link, func(o *Observation) Check { return o.checkOwn("output") }},
	{"forward", link, func(o *Observation) Check { return o.checkOwn("forward") }},
	{"iptables-legacy", shared, checkLegacy},
	{"ufw", shared, checkUFW},
	{"firewalld", shared, checkFirewalld},
	{"networkmanager", shared, checkNetworkManager},
	{"container-to-windows", shared, checkContainerToWindows},
}

// The verdicts as functions, to keep the checks short.

func ok(seen string, args ...any) Check {
	return Check{Verdict: OK, Seen: fmt.Sprintf(seen, args...)}
}

func notApplicable(seen string, args ...any) Check {
	return Check{Verdict: NotApplicable, Seen: fmt.Sprintf(seen, args...)}
}

func unknown(seen string, args ...any) Check {
	return Check{Verdict: Unknown, Seen: fmt.Sprintf(seen, args...)}
}

// unseen is the verdict where a look failed.
func unseen(what string, err error) Check {
	return unknown("could not see %s: %v", what, err)
}

func fault(seen string, args ...any) Check {
	return Check{Verdict: Fault, Seen: fmt.Sprintf(seen, args...)}
}

func warning(seen string, args ...any) Check {
	return Check{Verdict: Warning, Seen: fmt.Sprintf(seen, args...)}
}

// because says why it matters, and on which issue more is to be read: "" or for
// example "microsoft/WSL#41227".
func (c Check) because(why, issue string) Check {
	c.Why, c.Link = why, issueURL(issue)
	return c
}

// do says what to type.
func (c Check) do(lines ...string) Check {
	for _, l := range lines {
		if c.Do != "" {
			c.Do += "\n"
		}
		c.Do += text.Line(l)
	}
	return c
}
