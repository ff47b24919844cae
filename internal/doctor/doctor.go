// Package doctor finds faults in the localhost that Windows and Linux share: it
// observes everything first, and then each check judges that, as a pure function.
//
// It only reads. It sends no packet and connects to no port: a connection from
// Linux to a closed port of 127.0.0.1 hangs for two minutes in mirrored mode
// (WSL#10855). It does not look for Windows' packets that arrive at ports without a
// listener (WSL#41137): the kernel does not count them by port without an extra
// rule, and Npcap's loopback capture in Windows shows them. If something cannot be read,
// the error is part of the observation, and the verdict is Unknown, never a guess.
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

// A Verdict is the result of a check.
type Verdict string

// The verdicts, the gravest first.
const (
	Fault         Verdict = "fault"          // something does not work
	Warning       Verdict = "warning"        // something may stop working, or be unsafe
	Unknown       Verdict = "unknown"        // it could not be seen
	OK            Verdict = "ok"             // nothing is wrong
	NotApplicable Verdict = "not applicable" // there is nothing to judge
)

// verdicts are all of them in their order.
var verdicts = []Verdict{Fault, Warning, Unknown, OK, NotApplicable}

// A Check is the outcome of one check. Its JSON form differs: see checkJSON.
type Check struct {
	Name    string
	Verdict Verdict
	// Seen is the observation, in one line. Like Do it may contain names from
	// elsewhere, of links and chains, so it must be escaped for a terminal.
	Seen string
	// Why says why it matters. Do is the commands to type, one per line. A line that
	// begins with "#" is a remark.
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
	// Seen is the observation that it judges.
	Seen *Observation `json:"-"`
}

// Run observes and judges. It returns within Timeout, whatever hangs.
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

// A check is one of the checks: its precondition, and
// the function that judges.
type check struct {
	name  string
	needs need
	judge func(o *Observation) Check
}

// A need is the precondition of a check, as bits. If it does not hold, another check
// reports that, and this one does not apply: one cause is one fault.
type need int

const (
	nothing need = 0
	shared  need = 1 << iota // Windows and Linux share localhost, or should
	mirrors                  // and WSL mirrors Windows' network
	link                     // loopback0 exists and is up
)

func (c check) run(o *Observation) Check {
	out := Check{Verdict: NotApplicable}
	switch {
	case c.needs != nothing && !o.shared():
		out.Seen = "localhost is not shared in this networking mode"
	case c.needs&mirrors != 0 && o.consomme():
		out.Seen = "the networking mode consomme does not use it"
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

// checks are all checks, from the basics to the details.
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

// unseen is the verdict if something could not be read.
func unseen(what string, err error) Check {
	return unknown("could not check %s: %v", what, err)
}

func fault(seen string, args ...any) Check {
	return Check{Verdict: Fault, Seen: fmt.Sprintf(seen, args...)}
}

func warning(seen string, args ...any) Check {
	return Check{Verdict: Warning, Seen: fmt.Sprintf(seen, args...)}
}

// because says why it matters, and names an issue with more details: "" or for
// example "microsoft/WSL#41227".
func (c Check) because(why, issue string) Check {
	c.Why, c.Link = why, issueURL(issue)
	return c
}

// do adds commands.
func (c Check) do(lines ...string) Check {
	for _, l := range lines {
		if c.Do != "" {
			c.Do += "\n"
		}
		c.Do += text.Line(l)
	}
	return c
}
