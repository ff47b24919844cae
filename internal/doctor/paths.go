package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/internal/trace"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A Path is a packet, the rule of WSL that should match it, and where the kernel
// sends it.
type Path struct {
	What  string
	Query netwatch.RouteQuery
	Rule  netwatch.Rule
	Is    netwatch.RouteAnswer
	Err   error // the kernel could not be asked
}

// right reports whether the kernel routes the packet as WSL's rule says.
func (p Path) right() bool {
	if p.Rule.Table == unix.RT_TABLE_LOCAL {
		return p.Is.Type == unix.RTN_LOCAL
	}
	return p.Is.Type == unix.RTN_UNICAST && p.Is.Table == p.Rule.Table
}

// paths are the packets for which WSL has rules: to localhost, and to the addresses of
// the LAN in table 128.
func (n Network) paths(iface string) (list []Path) {
	rule := func(priority, table uint32, iif string, proto uint8) netwatch.Rule {
		return netwatch.Rule{Priority: priority, Action: unix.FR_ACT_TO_TBL, Table: table, Iif: iif, IPProto: proto, SuppressPrefix: -1}
	}
	both := func(what string, link int, dst netip.Addr, table uint32) {
		for _, p := range protocols {
			out := rule(1, table, "", p.number)
			list = append(list,
				Path{What: what + " from Windows", Query: netwatch.RouteQuery{Iif: link, Src: dst, Dst: dst, Proto: p.number},
					Rule: rule(0, unix.RT_TABLE_LOCAL, n.LinkName(link), p.number)},
				Path{What: what + " from Linux", Query: netwatch.RouteQuery{Dst: dst, Proto: p.number}, Rule: out},
				// Servers have a source address from the start, clients after the first lookup.
				Path{What: what + " from Linux", Query: netwatch.RouteQuery{Src: dst, Dst: dst, Proto: p.number}, Rule: out})
		}
	}
	both("localhost", netwatch.Find(n.Links, iface).Index, ruleset.Localhost, netwatch.LoopbackTable)
	// Other protocols than TCP and UDP stay inside Linux.
	list = append(list, Path{What: "ping to localhost", Query: netwatch.RouteQuery{Dst: ruleset.Localhost, Proto: unix.IPPROTO_ICMP},
		Rule: rule(2, unix.RT_TABLE_LOCAL, "", 0)})
	for _, r := range n.Routes {
		if r.Table == netwatch.HostTable && r.To.IsSingleIP() && r.Link != 0 {
			both(r.To.Addr().String(), r.Link, r.To.Addr(), netwatch.HostTable)
		}
	}
	return list
}

const whyRules = "WSL's rules send TCP and UDP for localhost to Windows and back. A rule ahead of them sends these packets elsewhere."

func checkRules(o *Observation) Check {
	if _, found := o.toWindows(); !found {
		return notApplicable("table 127 has no route that they could use")
	}
	n := o.Net.Value
	for _, grave := range []Verdict{Fault, Warning} {
		localhost := grave == Fault // and then the addresses of the LAN
		if c := n.judge(grave, func(p Path) bool { return (p.Query.Dst == ruleset.Localhost) == localhost }); c.Verdict != OK {
			return c
		}
	}
	var some []netwatch.Rule
	for _, p := range n.Paths {
		for _, r := range n.ahead(p) {
			if r.Other && !keepsInside(r) {
				some = add(some, r)
			}
		}
	}
	if len(some) > 0 {
		return warning("the rule %q is ahead of WSL's rules and sends some packets elsewhere", list(some)).because(whyRules, "").
			do("# if its owner does not need it there, add it behind WSL's rules instead, with preference 3")
	}
	lost, extra := n.lostByWSL(o.nics()), n.doubled()
	if len(lost)+len(extra) > 0 {
		var seen []string
		if len(lost) > 0 {
			seen = append(seen, fmt.Sprintf("rules of WSL are missing: %s", list(lost)))
		}
		if len(extra) > 0 {
			seen = append(seen, fmt.Sprintf("duplicate rules: %s", list(extra)))
		}
		c := warning("%s", strings.Join(seen, "; ")).
			because("WSL added its rules again when its link returned. Each further time, it deletes a rule that is needed.", "")
		for _, r := range lost {
			c = c.do("sudo ip rule add " + arguments(r))
		}
		for _, r := range extra {
			c = c.do("sudo ip rule del " + arguments(r))
		}
		return c
	}
	return ok("%d rules; the kernel routes packets to localhost as WSL's rules say", len(n.Rules))
}

// lostByWSL are the missing rules of mirrored links. A link with neither of
// its two rules is not known to be mirrored.
func (n Network) lostByWSL(nics []string) (lost []netwatch.Rule) {
	for _, name := range nics {
		for _, p := range protocols {
			r := netwatch.Rule{Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_LOCAL, Iif: name, IPProto: p.number, SuppressPrefix: -1}
			if n.index(r) < 0 && netwatch.Find(n.Links, name).Present() {
				lost = append(lost, r)
			}
		}
	}
	return lost
}

// doubled are the duplicates of WSL's rules.
func (n Network) doubled() (extra []netwatch.Rule) {
	for i, r := range n.Rules {
		if r.Priority <= 2 && r.Protocol != ruleProtocol && slices.Contains(n.Rules[:i], r) {
			extra = append(extra, r)
		}
	}
	return extra
}

// keepsInside reports whether a rule keeps some TCP or UDP in Linux, as the fix for
// ports that Windows never sends does (see checkUnsent).
func keepsInside(r netwatch.Rule) bool {
	return r.Action == unix.FR_ACT_TO_TBL && r.Table == unix.RT_TABLE_LOCAL && r.IPProto != 0 && !r.Not
}

// judge judges where the kernel sends some of the paths. It uses the list of rules only
// to name the culprit.
func (n Network) judge(grave Verdict, some func(Path) bool) Check {
	var missing, shadows []netwatch.Rule
	var lost, turned, routeless, refused []string // what goes wrong
	for _, p := range n.Paths {
		if !some(p) || p.Err == nil && p.right() {
			continue
		}
		culprits := slices.DeleteFunc(n.ahead(p), func(r netwatch.Rule) bool { return !n.leads(r, p) })
		switch {
		case p.Err != nil:
			return unseen("where the kernel sends packets", p.Err)
		case n.index(p.Rule) < 0:
			missing, lost = add(missing, p.Rule), add(lost, p.What)
		case len(culprits) > 0:
			// The first one that doctor understands, or else the first one.
			i := max(0, slices.IndexFunc(culprits, func(r netwatch.Rule) bool { return !r.Other }))
			shadows, turned = add(shadows, culprits[i]), add(turned, p.What)
		case errors.Is(p.Is.Err, unix.EINVAL) || errors.Is(p.Is.Err, unix.EXDEV):
			// For example because of a sysctl, which other checks report.
			refused = add(refused, fmt.Sprintf("%s: not certain, because the kernel refuses it (%v), but not because of a rule", p.What, p.Is.Err))
		default:
			routeless = add(routeless, fmt.Sprintf("table %s has no route to %s", netwatch.TableName(p.Rule.Table), p.Query.Dst))
		}
	}
	switch {
	case len(missing) > 0:
		c := Check{Verdict: grave, Seen: fmt.Sprintf("rules of WSL are missing (%s): %s", strings.Join(lost, ", "), list(missing))}.because(whyRules, "")
		for _, r := range missing {
			c = c.do("sudo ip rule add " + arguments(r))
		}
		return c
	case len(shadows) > 0:
		for _, r := range n.Rules {
			// wg-quick adds a pair of rules. This one must stay ahead of the other.
			if r.Priority < trace.BehindWSL && r.SuppressPrefix >= 0 && !slices.Contains(shadows, r) {
				shadows = slices.Insert(shadows, 0, r)
			}
		}
		c := Check{Verdict: grave, Seen: fmt.Sprintf("%s: the rule %q is ahead of WSL's rules", strings.Join(turned, ", "), list(shadows))}.because(whyRules, "")
		for _, r := range shadows {
			c = c.do(moved(r)...).do(n.removal(r)...)
		}
		return c
	case len(routeless) > 0:
		return Check{Verdict: grave, Seen: strings.Join(routeless, ", ")}.
			because("WSL's rules exist, but their table has no route.", "").do(restart)
	case len(refused) > 0:
		return Check{Verdict: Unknown, Seen: strings.Join(refused, ", ")}
	}
	return Check{Verdict: OK}
}

// index is the position of a rule of WSL in the list, -1 if it is missing.
func (n Network) index(rule netwatch.Rule) int {
	return slices.IndexFunc(n.Rules, func(r netwatch.Rule) bool { r.Protocol = 0; return r == rule })
}

// ahead are the rules ahead of WSL's that match the packet, or may match it.
func (n Network) ahead(p Path) (list []netwatch.Rule) {
	has := func(prefix netip.Prefix, a netip.Addr) bool { return !prefix.IsValid() || prefix.Contains(a) }
	iif := cmp.Or(p.Rule.Iif, "lo")
	for _, r := range n.Rules[:max(0, n.index(p.Rule))] {
		// The packet has no mark, no TOS, and its socket is bound to no link.
		meant := (r.Iif == "" || r.Iif == iif) && r.Oif == "" && r.Mark&r.Mask == 0 && r.TOS == 0 && !r.L3Mdev &&
			(r.IPProto == 0 || r.IPProto == p.Query.Proto) && has(r.To, p.Query.Dst) && has(r.From, p.Query.Src)
		if r.Action != unix.FR_ACT_NOP && (meant != r.Not || r.Not && r.Other) {
			list = append(list, r)
		}
	}
	return list
}

// leads reports whether a matching rule decides where a packet goes.
func (n Network) leads(r netwatch.Rule, p Path) bool {
	switch r.Action {
	case unix.FR_ACT_TO_TBL:
		return slices.ContainsFunc(n.Routes, func(route netwatch.Route) bool {
			return route.Table == r.Table && route.To.Contains(p.Query.Dst) && route.To.Bits() > r.SuppressPrefix && route.Type != unix.RTN_THROW
		})
	case unix.FR_ACT_GOTO:
		return r.Goto > p.Rule.Priority
	}
	return true
}

// moved is the command that adds r behind WSL's rules, before it is deleted where
// it is. Its owner needs it: without the rule of wg-quick, for example, all packets would
// leave outside the tunnel.
func moved(r netwatch.Rule) []string {
	switch {
	case r.Action == unix.FR_ACT_TO_TBL && r.Table == unix.RT_TABLE_LOCAL:
		return nil // WSL uses that table too, as the last one
	case r.Action == unix.FR_ACT_GOTO && r.Goto <= trace.BehindWSL:
		return nil // it skips only WSL's rules
	case r.Other:
		return []string{fmt.Sprintf("# the next command deletes this rule, which doctor does not fully understand; if you need it, first add it with 'pref %d', behind WSL's: %s", trace.BehindWSL, r)}
	}
	r.Priority = trace.BehindWSL
	return []string{addition(r)}
}

// foreign is the rule with those words that another program has added among or ahead of WSL's.
func (n Network) foreign(words string) (netwatch.Rule, bool) {
	i := slices.IndexFunc(n.Rules, func(r netwatch.Rule) bool {
		ours := r.Protocol == ruleProtocol || slices.ContainsFunc(n.Paths, func(p Path) bool { return p.Rule.String() == r.String() })
		return r.String() == words && r.Priority < trace.BehindWSL && !ours
	})
	if i < 0 {
		return netwatch.Rule{}, false
	}
	return n.Rules[i], true
}

// addition is the command that adds r, with the protocol number of its owner.
func addition(r netwatch.Rule) string {
	line := "sudo ip rule add " + arguments(r)
	if r.Protocol > unix.RTPROT_BOOT {
		line += fmt.Sprintf(" protocol %d", r.Protocol)
	}
	return line
}

// arguments are the arguments of "ip rule add" for r, as far as doctor understands r. The
// owner of the rule has chosen the names of its links, so they are quoted.
func arguments(r netwatch.Rule) string {
	r.Protocol, r.Other = 0, false
	for _, link := range []*string{&r.Iif, &r.Oif} {
		if *link != "" {
			*link = text.Word(*link)
		}
	}
	return fmt.Sprintf("pref %d%s", r.Priority, strings.TrimPrefix(r.String(), fmt.Sprintf("%d:", r.Priority)))
}

// removal are the commands that remove target. The kernel takes a missing argument as a
// wildcard and removes the first rule that matches: so the command may remove WSL's own
// rules first, which are then added again. The daemon restores its own, but not its markers,
// which name a link (internal/mirror/replyrule.go).
func (n Network) removal(target netwatch.Rule) (lines []string) {
	var again []string
	del := "sudo ip rule del " + arguments(target)
	named := target
	named.Protocol = 0
	for _, r := range n.Rules[:slices.Index(n.Rules, target)] {
		if !named.Fits(r) {
			continue
		}
		lines = append(lines, del)
		switch {
		case r.Protocol == ruleProtocol && r.Iif == "":
		case r.Other:
			again = append(again, fmt.Sprintf("# this rule is deleted too; add it again: %s", r))
		default:
			again = append(again, addition(r))
		}
	}
	return append(append(lines, del), again...)
}

func list(rules []netwatch.Rule) string {
	var text []string
	for _, r := range rules {
		text = append(text, r.String())
	}
	return strings.Join(text, "; ")
}
