package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/netwatch"
)

// A probe is a packet whose way through the ip rules is followed: without mark,
// without TOS, of a socket that is bound to no link.
type probe struct {
	iif      string // "lo" for what starts in Linux
	src, dst netip.Addr
	proto    uint8
}

// A match is whether a rule is meant for a probe.
type match int

const (
	no match = iota
	yes
	perhaps // it asks for ports or users, say
)

// matches is fib_rule_match of net/core/fib_rules.c.
func (p probe) matches(r netwatch.Rule) match {
	m := yes
	switch {
	case r.L3Mdev, // there is no VRF here
		r.Iif != "" && r.Iif != p.iif,
		r.Oif != "",
		r.Mark&r.Mask != 0,
		r.TOS != 0,
		r.IPProto != 0 && r.IPProto != p.proto,
		r.To.IsValid() && !r.To.Contains(p.dst),
		r.From.IsValid() && !r.From.Contains(p.src):
		m = no
	case r.Other,
		// A socket that is not bound has its source address only after the lookup.
		r.From.IsValid() && r.From.Bits() > 0 && p.iif == "lo":
		m = perhaps
	}
	if r.Not && m != perhaps {
		m = yes - m
	}
	return m
}

// A decision is the rule that decides where a packet goes.
type decision struct {
	rule  netwatch.Rule
	found bool
	// Jump is the goto that led there, if one did.
	jump netwatch.Rule
	// Before are foreign rules ahead of it that perhaps decide first.
	before []netwatch.Rule
}

// decide follows p through the rules and into the tables.
func (o *Observation) decide(p probe) (d decision) {
	skipTo := uint32(0)
	for _, r := range o.Rules.Value {
		if r.Priority < skipTo {
			continue
		}
		m := p.matches(r)
		if m == no || r.Action == unix.FR_ACT_NOP || r.Action == unix.FR_ACT_TO_TBL && !o.hasRoute(r, p.dst) {
			continue
		}
		switch {
		case m == perhaps:
			d.before = append(d.before, r)
		case r.Action == unix.FR_ACT_GOTO:
			skipTo, d.jump = r.Goto, r
		default:
			d.rule, d.found = r, true
			return d
		}
	}
	return d
}

// hasRoute reports whether the table that r asks has an answer for dst.
func (o *Observation) hasRoute(r netwatch.Rule, dst netip.Addr) bool {
	var best Route
	for _, route := range o.Routes.Value {
		if route.Table == r.Table && route.To.Contains(dst) && (!best.To.IsValid() || route.To.Bits() > best.To.Bits()) {
			best = route
		}
	}
	return best.To.IsValid() && best.Type != unix.RTN_THROW && best.To.Bits() > r.SuppressPrefix
}

// A way is what a packet must find in the ip rules.
type way struct {
	what   string
	probe  probe
	wanted netwatch.Rule // WSL's own rule
}

// ways are those that WSL's rules make, for localhost and for the addresses of
// the LAN.
func (o *Observation) ways() (localhosts, lan []way) {
	both := func(what, nic string, addr netip.Addr, table uint32) (list []way) {
		for _, p := range protocols {
			list = append(list,
				way{what + " from Windows", probe{nic, addr, addr, p.number}, netwatch.Rule{
					Priority: 0, Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_LOCAL, Iif: nic, IPProto: p.number, SuppressPrefix: -1,
				}},
				way{what + " from Linux", probe{"lo", addr, addr, p.number}, netwatch.Rule{
					Priority: 1, Action: unix.FR_ACT_TO_TBL, Table: table, IPProto: p.number, SuppressPrefix: -1,
				}})
		}
		return list
	}
	localhosts = append(both("localhost", o.Iface, localhost, loopbackTable),
		// What is neither TCP nor UDP stays inside.
		way{"ping to localhost", probe{"lo", localhost, localhost, unix.IPPROTO_ICMP}, netwatch.Rule{
			Priority: 2, Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_LOCAL, SuppressPrefix: -1,
		}})
	for _, r := range o.Routes.Value {
		if r.Table == localTable && r.To.IsSingleIP() && r.Link != "" {
			lan = append(lan, both(r.To.Addr().String(), r.Link, r.To.Addr(), localTable)...)
		}
	}
	return localhosts, lan
}

func checkRules(o *Observation) Check {
	switch _, found := o.toWindows(); {
	case o.Rules.Err != nil:
		return unseen("the ip rules", o.Rules.Err)
	case o.Routes.Err != nil:
		return unseen("the routes", o.Routes.Err)
	case !found:
		return notApplicable("there is no route in table 127 that they could lead to")
	}
	localhosts, lan := o.ways()
	if c := o.judgeWays(localhosts, Fault); c.Verdict != OK {
		return c
	}
	if c := o.judgeWays(lan, Warning); c.Verdict != OK {
		return c
	}
	return ok("%d rules, and none before those of WSL that changes the way", len(o.Rules.Value))
}

// judgeWays judges what becomes of all packets that should go the ways.
func (o *Observation) judgeWays(ways []way, grave Verdict) Check {
	var missing, shadows, perhaps []netwatch.Rule
	var lost, turned, routeless []string // what goes wrong
	for _, w := range ways {
		d := o.decide(w.probe)
		if d.found && d.rule.Table == w.wanted.Table && d.rule.Action == w.wanted.Action {
			for _, r := range d.before {
				perhaps = add(perhaps, r)
			}
			continue
		}
		if d.jump.Goto > w.wanted.Priority {
			d.rule = d.jump // past WSL's
		}
		at := slices.IndexFunc(o.Rules.Value, func(r netwatch.Rule) bool { r.Protocol = 0; return r == w.wanted })
		switch {
		case at < 0:
			missing, lost = add(missing, w.wanted), add(lost, w.what)
		case d.found && slices.Index(o.Rules.Value, d.rule) < at:
			shadows, turned = add(shadows, d.rule), add(turned, w.what)
		default: // nothing is in the way, and it leads nowhere
			routeless = add(routeless, fmt.Sprintf("table %s has no route to %s", netwatch.TableName(w.wanted.Table), w.probe.dst))
		}
	}
	const why = "WSL's rules take TCP and UDP to localhost to Windows and back. Whatever comes before them takes them elsewhere."
	switch {
	case len(missing) > 0:
		c := Check{Verdict: grave, Seen: fmt.Sprintf("rules of WSL are missing (%s): %s", strings.Join(lost, ", "), list(missing))}.because(why, "")
		for _, r := range missing {
			c = c.do("sudo ip rule add " + arguments(r))
		}
		return c
	case len(shadows) > 0:
		c := Check{Verdict: grave, Seen: fmt.Sprintf("%s: ahead of WSL's rules comes %q", strings.Join(turned, ", "), list(shadows))}.because(why, "")
		for _, r := range shadows {
			c = c.do(moved(r)...).do(o.removal(r)...)
		}
		return c
	case len(routeless) > 0:
		return Check{Verdict: grave, Seen: strings.Join(routeless, ", ")}.
			because("WSL's rules are there, but they ask that table in vain.", "").do(restart)
	case len(perhaps) > 0:
		return warning("ahead of WSL's rules comes %q, which takes some packets elsewhere", list(perhaps)).because(why, "")
	}
	return Check{Verdict: OK}
}

// behind is the first preference after those of WSL's rules.
const behind = 3

// moved is the command that puts r behind WSL's rules, before it is deleted where
// it is. Somebody wants it there: without that of wg-quick, say, everything would
// leave outside of the tunnel.
func moved(r netwatch.Rule) []string {
	switch {
	case r.Action == unix.FR_ACT_TO_TBL && r.Table == unix.RT_TABLE_LOCAL:
		return nil // WSL asks that table as well, and last
	case r.Action == unix.FR_ACT_GOTO && r.Goto <= behind:
		return nil // it skips nothing but WSL's
	case r.Other, r.L3Mdev:
		return []string{fmt.Sprintf("# this rule is deleted next, and asks for more than doctor understands; if it is needed, add it first with 'pref %d', behind WSL's: %s", behind, r)}
	}
	r.Priority = behind
	return []string{addition(r)}
}

// addition is the command that adds r, in the name of who added it.
func addition(r netwatch.Rule) string {
	line := "sudo ip rule add " + arguments(r)
	if r.Protocol > unix.RTPROT_BOOT {
		line += fmt.Sprintf(" protocol %d", r.Protocol)
	}
	return line
}

// arguments are those of "ip rule add" for r, as far as they are understood. The
// names of its links are what whoever added the rule has chosen.
func arguments(r netwatch.Rule) string {
	r.Protocol, r.Other = 0, false
	for _, link := range []*string{&r.Iif, &r.Oif} {
		if *link != "" {
			*link = word(*link)
		}
	}
	return fmt.Sprintf("pref %d%s", r.Priority, strings.TrimPrefix(r.String(), fmt.Sprintf("%d:", r.Priority)))
}

// removal is the commands that remove r. What is not given is a wildcard to the
// kernel, which removes the first rule that fits: so WSL's own may go before it,
// and are added again. The daemon adds its own, but not those that remember
// something for it, which name a link (internal/mirror/replyrule.go).
func (o *Observation) removal(target netwatch.Rule) (lines []string) {
	var again []string
	for _, r := range o.Rules.Value {
		if r == target {
			break
		}
		if fits(target, r) {
			lines = append(lines, "sudo ip rule del "+arguments(target))
			if r.Protocol == ruleProtocol && r.Iif == "" {
				continue
			}
			if r.Other {
				again = append(again, fmt.Sprintf("# add what is deleted with it again: %s", r))
				continue
			}
			again = append(again, addition(r))
		}
	}
	return append(append(lines, "sudo ip rule del "+arguments(target)), again...)
}

// fits reports whether r has all that is given in spec (rule_find in
// net/core/fib_rules.c).
func fits(spec, r netwatch.Rule) bool {
	return r.Priority == spec.Priority && r.Action == spec.Action && r.Table == spec.Table &&
		(spec.Iif == "" || spec.Iif == r.Iif) && (spec.Oif == "" || spec.Oif == r.Oif) &&
		(spec.SuppressPrefix < 0 || spec.SuppressPrefix == r.SuppressPrefix) &&
		(spec.Mark == 0 || spec.Mark == r.Mark) && (spec.Mask == 0 || spec.Mask == r.Mask) &&
		(spec.IPProto == 0 || spec.IPProto == r.IPProto) && (spec.TOS == 0 || spec.TOS == r.TOS) &&
		(!spec.From.IsValid() || spec.From == r.From) && (!spec.To.IsValid() || spec.To == r.To)
}

// add appends what is not there yet.
func add[T comparable](to []T, item T) []T {
	if slices.Contains(to, item) {
		return to
	}
	return append(to, item)
}

func list(rules []netwatch.Rule) string {
	var text []string
	for _, r := range rules {
		text = append(text, r.String())
	}
	return strings.Join(text, "; ")
}
