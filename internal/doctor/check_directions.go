package doctor

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/wslmirror/wslmirror/internal/sockdiag"
	"github.com/wslmirror/wslmirror/internal/trace"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A cause is a hop that stops packets, or may stop them, with the requests that it affects.
type cause struct {
	at  trace.Hop
	why string
	fix []string
	of  []trace.Question
}

// grave reports whether packets do not reach an existing listener.
func (c cause) grave() bool {
	return slices.ContainsFunc(c.of, func(q trace.Question) bool { return !q.Suppose || q.From != trace.Windows })
}

// String names the lost requests, and says why they are lost.
func (c cause) String() string { return fmt.Sprintf("%s (%s)", lost(c.of), c.why) }

// lost names requests, grouped by client.
func lost(of []trace.Question) string {
	var windows, linux, rest []string
	for _, q := range of {
		switch {
		case q.From == trace.Container:
			rest = add(rest, "containers to Windows")
		case q.Suppose && q.From == trace.Linux:
			rest = add(rest, "Linux to Windows")
		case q.Suppose:
		case q.From == trace.Linux:
			linux = append(linux, q.Port.String())
		default:
			windows = append(windows, q.Port.String())
		}
	}
	if len(linux) > 0 {
		rest = slices.Insert(rest, 0, "Linux to "+shortened(linux))
	}
	if len(windows) > 0 {
		rest = slices.Insert(rest, 0, "Windows to "+shortened(windows))
	}
	if len(rest) == 0 {
		return "Windows to new listeners"
	}
	return strings.Join(rest, "; ")
}

// causes are the hops that some selects, each with all requests that it affects: many requests
// with one cause are one fault.
func (o *Observation) causes(some func(trace.Trace) (at trace.Hop, is bool)) (list []cause) {
	for _, w := range o.Ruleset.Value.Walks {
		for _, t := range w.Traces {
			at, is := some(t)
			if !is {
				continue
			}
			i := slices.IndexFunc(list, func(c cause) bool {
				return c.at.Kind == at.Kind && c.at.Place() == at.Place() && (at.Kind == trace.InChain || c.why == t.Why)
			})
			if i < 0 {
				i, list = len(list), append(list, cause{at: at, why: t.Why})
			}
			list[i].of = add(list[i].of, w.Question)
			for _, f := range t.Fix {
				list[i].fix = add(list[i].fix, f)
			}
		}
	}
	return list
}

// stopsIn are the causes in the chains that a check covers.
func (o *Observation) stopsIn(check string) []cause {
	return o.causes(func(t trace.Trace) (trace.Hop, bool) {
		h, stops := t.StoppedBy()
		return h, stops && h.Kind == trace.InChain && o.checkOf(h) == check
	})
}

// mayStopIn are the possible causes there.
func (o *Observation) mayStopIn(check string) []cause {
	return o.causes(func(t trace.Trace) (trace.Hop, bool) {
		h, unsure := undecided(t)
		return h, unsure && o.checkOf(h) == check
	})
}

// undecided is the first chain whose verdict trace does not know, for a packet that
// no other hop certainly stops.
func undecided(t trace.Trace) (h trace.Hop, is bool) {
	i := slices.IndexFunc(t.Hops, func(h trace.Hop) bool { return h.Kind == trace.InChain && !h.Sure })
	if t.Verdict != trace.Unknown || i < 0 {
		return h, false
	}
	return t.Hops[i], true
}

// checkOf is the check that covers a chain: that of the program that owns it, or
// else that of its hook.
func (o *Observation) checkOf(h trace.Hop) string {
	if h.Manager != "" {
		return string(h.Manager)
	}
	for _, m := range o.Ruleset.Value.Missing {
		if trace.PlaceOf(m.At) == h.Place() {
			return "docker-loopback0"
		}
	}
	switch h.Hook {
	case "prerouting", "input":
		return "input"
	case "forward":
		return "forward"
	}
	return "output"
}

// blind is the verdict if the rules or the listeners could not be read.
func (o *Observation) blind() (c Check, is bool) {
	switch {
	case o.Ruleset.Err != nil:
		return unseen("the rules", o.Ruleset.Err), true
	case o.Listeners.Err != nil && !errors.Is(o.Listeners.Err, sockdiag.ErrNoUDP):
		return unseen("the listeners", o.Listeners.Err), true
	}
	return c, false
}

// judgeRules judges the chains that a check covers: the packets that they stop, or may stop.
func (o *Observation) judgeRules(check string) (c Check, stops []cause) {
	stops = o.stopsIn(check)
	may := o.mayStopIn(check)
	var seen []string
	for _, s := range stops {
		seen = append(seen, s.String())
	}
	switch {
	case slices.ContainsFunc(stops, cause.grave):
		return fault("packets are lost: %s", strings.Join(seen, ", ")), stops
	case len(may) > 0:
		for _, m := range may {
			seen = append(seen, m.String())
		}
		return unknown("not certain: %s", strings.Join(seen, ", ")).do(lookAt(may[0].of)), nil
	case len(stops) > 0:
		return warning("no program listens there yet, but packets are lost: %s", strings.Join(seen, ", ")), stops
	case o.Ruleset.Value.Unfollowed > 0:
		return notApplicable("see directions"), nil
	}
	return ok("no rule stops packets between Windows and Linux, or the answers"), nil
}

// lookAt is the command that traces one of the packets.
func lookAt(of []trace.Question) string {
	q := of[max(0, slices.IndexFunc(of, func(q trace.Question) bool { return !q.Suppose }))]
	port := strings.TrimSuffix(q.Port.String(), "/tcp")
	from := string(q.From)
	if q.From == trace.Container {
		from += ":" + q.Addr.String()
	}
	return fmt.Sprintf("sudo wslmirror trace %s --from %s   # shows the rule", port, from)
}

const whyFirewall = "A firewall that only allows lo drops packets from Windows, which arrive on "

// whyOwn says why the user's own rules do harm.
func (o *Observation) whyOwn(check string, stops []cause) string {
	masks := slices.ContainsFunc(stops, func(c cause) bool { return c.at.Verdict == string(ruleset.Masquerades) })
	switch {
	case check == "input":
		return whyFirewall + o.Iface + "."
	case check == "forward":
		return "Packets that bypass the proxy are forwarded between " + o.Iface + " and the bridge of the container, and so are the answers."
	case masks:
		return "Packets that leave through " + o.Iface + " must keep their source 127.0.0.1: answers to another address do not return."
	}
	return "Packets to 127.0.0.1 and answers to Windows leave through " + o.Iface +
		". Packets from a proxy to its container leave through a bridge. A firewall that only allows lo drops both."
}

// checkOwn looks for the user's own rules, or those of an unknown program, that stop packets
// from or to Windows.
func (o *Observation) checkOwn(check string) Check {
	c, blind := o.blind()
	var stops []cause
	if !blind {
		c, stops = o.judgeRules(check)
	}
	legacy := c.Verdict == OK && slices.Contains(o.Legacy.Value, "filter")
	switch {
	case (blind || legacy) && check != "input":
		return notApplicable("see input") // report it once
	case blind, c.Verdict == NotApplicable:
		return c
	case legacy:
		return Check{Verdict: Unknown, Seen: "not certain: " + c.Seen + ", but iptables-legacy has a table filter, which wslmirror does not check"}
	case c.Verdict == OK:
		return c
	}
	var commands, comments []string
	for _, s := range stops {
		for _, f := range s.fix {
			if strings.HasPrefix(f, "sudo nft insert") {
				commands = add(commands, f)
			} else {
				comments = add(comments, f)
			}
		}
	}
	return c.because(o.whyOwn(check, stops), "").do(commands...).do(comments...)
}

// fixes are the commands that repair all causes.
func fixes(stops []cause) (commands []string) {
	for _, s := range stops {
		for _, f := range s.fix {
			commands = add(commands, f)
		}
	}
	return commands
}

func checkUFW(o *Observation) Check {
	there := o.Ruleset.Value.UFW
	if c, blind := o.blind(); blind && (o.UFW || there) {
		return c
	}
	c, stops := o.judgeRules("ufw")
	legacy := len(o.Legacy.Value) > 0 || o.Legacy.Err != nil
	switch {
	case c.Verdict == OK && there:
		return ok("ufw is on, and allows %s", o.Iface)
	case c.Verdict == OK && o.UFW && legacy:
		return unknown("ufw is installed; its rules may be in iptables-legacy, which wslmirror does not check")
	case c.Verdict == OK:
		return notApplicable("ufw is off, or not installed")
	case c.Verdict == NotApplicable:
		return c
	}
	return c.because(whyFirewall+o.Iface+".", "").do(fixes(stops)...)
}

func checkFirewalld(o *Observation) Check {
	there := o.Ruleset.Value.Firewalld || o.runs("firewalld")
	switch c, blind := o.blind(); {
	case o.Programs.Err != nil && !there:
		return unseen("the processes", o.Programs.Err)
	case !there:
		return notApplicable("firewalld is not running")
	case blind:
		return c
	case !o.Ruleset.Value.Firewalld:
		return unknown("firewalld is running, but its table is missing: it may use iptables, which the check input covers")
	}
	c, stops := o.judgeRules("firewalld")
	switch c.Verdict {
	case OK:
		return ok("firewalld is running, and allows %s", o.Iface)
	case NotApplicable:
		return c
	}
	return c.because(whyFirewall+o.Iface+". The default zone allows few services.", "").do(fixes(stops)...)
}

// checkDirections judges what no firewall rule causes: where the kernel sends
// packets between Windows, Linux and containers, and the answers.
func checkDirections(o *Observation) Check {
	if c, blind := o.blind(); blind {
		return c
	}
	// A fault of these checks is the cause, and lost packets are its effect.
	for _, c := range []check{
		{"table-127", link, checkTable127}, {"gateway", link, checkGateway}, {"ip-rules", link, checkRules}, {"rp-filter", link, checkRPFilter},
		{"route-localnet", link, checkRouteLocalnet}, {"service", shared, checkService}, {"table", shared, checkTable},
	} {
		if c.run(o).Verdict == Fault {
			return notApplicable("see %s", c.name)
		}
	}
	stops := o.causes(func(t trace.Trace) (trace.Hop, bool) {
		h, stops := t.StoppedBy()
		return h, stops && h.Kind != trace.InChain && h.Verdict != "none"
	})
	var seen []string
	var do []string
	var foreign []netwatch.Rule
	for _, s := range stops {
		if s.at.Kind == trace.Routed && s.at.Rule != "" {
			s.why += ", because of the ip rule " + s.at.Rule
		}
		seen = append(seen, s.String())
		if r, is := o.Net.Value.foreign(s.at.Rule); is && s.at.Kind == trace.Routed && !slices.Contains(foreign, r) {
			foreign = append(foreign, r)
			do = slices.Concat(do, moved(r), o.Net.Value.removal(r))
		}
		for _, f := range s.fix {
			if f != "sudo wslmirror doctor" {
				do = add(do, f)
			}
		}
		if len(do) == 0 {
			do = append(do, lookAt(s.of))
		}
	}
	if len(stops) > 0 {
		c := fault("packets are lost: %s", strings.Join(seen, ", ")).do(do...)
		if slices.ContainsFunc(stops, func(s cause) bool { return s.at.Kind == trace.Routed }) {
			c = c.because("The exit node or the ip rules of a VPN, for example, send packets for containers, or their answers, elsewhere.", "")
		}
		return c
	}
	var unsure []trace.Question
	why := ""
	for _, w := range o.Ruleset.Value.Walks {
		last := w.Traces[len(w.Traces)-1]
		if _, chain := undecided(last); last.Verdict == trace.Unknown && !chain {
			unsure, why = append(unsure, w.Question), last.Why
		}
	}
	lostIn := o.lostIn(o.Ruleset.Value.Walks)
	switch {
	case len(lostIn) > 0:
		return notApplicable("see %s", strings.Join(lostIn, ", "))
	case len(unsure) > 0:
		return unknown("not certain: %s (%s)", lost(unsure), why).do(lookAt(unsure))
	case o.Ruleset.Value.Unfollowed > 0:
		return unknown("not certain: there are so many rules and ports that %d more packets were not followed", o.Ruleset.Value.Unfollowed).
			do("sudo wslmirror trace 8080   # follows the packets to one port")
	}
	return ok("packets pass in both directions: Windows and Linux to Linux's ports (%d), Linux to Windows", o.portsFollowed())
}

// lostIn are the checks of the chains that stop requests, or may stop them.
func (o *Observation) lostIn(walks []Walk) (checks []string) {
	for _, w := range walks {
		for _, t := range w.Traces {
			if h, stops := t.StoppedBy(); stops && h.Kind == trace.InChain {
				checks = add(checks, o.checkOf(h))
			} else if h, is := undecided(t); is {
				checks = add(checks, o.checkOf(h))
			}
		}
	}
	return checks
}

// portsFollowed is how many ports of Linux were followed.
func (o *Observation) portsFollowed() (n int) {
	for _, w := range o.Ruleset.Value.Walks {
		if w.From == trace.Windows && !w.Suppose {
			n++
		}
	}
	return n
}

// shortened is the first few items, and the number of the others.
func shortened(items []string) string {
	const most = 5
	if len(items) <= most {
		return strings.Join(items, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(items[:most], ", "), len(items)-most)
}
