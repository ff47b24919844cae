package doctor

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/sockdiag"
	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A firewall is who owns chains that drop what arrives from Windows.
type firewall string

const (
	ufw       firewall = "ufw"
	firewalld firewall = "firewalld"
	ownRules  firewall = "" // the user's own, or of somebody unknown
)

// of tells whose chain it is, by its name.
func (r Ruleset) of(d Drop) firewall {
	switch {
	case d.Table == "firewalld":
		return firewalld
	case strings.HasPrefix(d.Chain, "ufw-"), r.UFW && d.Policy && d.Table == "filter" && d.Chain == "INPUT":
		return ufw
	}
	return ownRules
}

// refusal judges what a firewall drops of what arrives from Windows.
func (o *Observation) refusal(of firewall) (c Check, drops []Drop) {
	var refused, perhaps, many []string
	certain := true // of many
	for _, d := range o.Ruleset.Value.Drops {
		if o.Ruleset.Value.of(d) != of {
			continue
		}
		at := fmt.Sprintf("%s %s %s", d.Family, d.Table, d.Chain)
		var here []string
		for _, l := range o.Listeners.Value {
			if d.hits(l) {
				here = add(here, fmt.Sprintf("%d/%s", l.Addr.Port(), l.Proto))
			}
		}
		switch {
		case len(here) > 0 && d.Sure:
			refused, drops = append(refused, fmt.Sprintf("%s (%s)", shortened(here), at)), append(drops, d)
		case len(here) > 0:
			perhaps = append(perhaps, fmt.Sprintf("%s (%s)", shortened(here), at))
		case d.Ports.Len() > ruleset.MostPorts:
			many, certain = add(many, at), certain && d.Sure
		}
	}
	switch {
	case len(refused) > 0:
		return fault("rules drop what arrives on %s for %s", o.Iface, strings.Join(refused, ", ")), drops
	case len(perhaps) > 0:
		return unknown("not certain: rules may drop what arrives on %s for %s", o.Iface, strings.Join(perhaps, ", ")), nil
	case of != ownRules && len(many) > 0 && certain:
		return warning("%s lets little in on %s (%s)", of, o.Iface, strings.Join(many, ", ")), nil
	case of != ownRules && len(many) > 0:
		return unknown("not certain: %s may let little in on %s (%s)", of, o.Iface, strings.Join(many, ", ")), nil
	}
	return ok("no rule drops what arrives on %s for a port on which somebody listens", o.Iface), nil
}

// hits reports whether d drops what Windows sends to l.
func (d Drop) hits(l ports.Listener) bool {
	for _, p := range protocols {
		if addr := l.Addr.Addr(); p.name == l.Proto && !l.Bound && l.TakesIPv4() && (addr.IsUnspecified() || addr == ruleset.Localhost) {
			return d.Ports.Has(ruleset.Port{Proto: p.number, Number: l.Addr.Port()})
		}
	}
	return false
}

// blind says why a firewall cannot be judged, if it cannot.
func (o *Observation) blind() (c Check, is bool) {
	switch {
	case o.Ruleset.Err != nil:
		return unseen("the rules for what comes in", o.Ruleset.Err), true
	case o.Listeners.Err != nil && !errors.Is(o.Listeners.Err, sockdiag.ErrNoUDP):
		return unseen("who listens", o.Listeners.Err), true
	}
	return c, false
}

const whyFirewall = "A firewall that trusts lo alone takes Windows for a stranger: its localhost arrives on "

// checkInput looks for a firewall of one's own that takes Windows for a stranger.
func checkInput(o *Observation) Check {
	if c, blind := o.blind(); blind {
		return c
	}
	c, drops := o.refusal(ownRules)
	switch {
	case c.Verdict == OK && slices.Contains(o.Legacy.Value, "filter"):
		return Check{Verdict: Unknown, Seen: "not certain: " + c.Seen + ", but iptables-legacy has a table filter, which is not judged here"}
	case c.Verdict == OK:
		return c
	}
	var owned, commands []string
	others := false
	for _, d := range drops {
		table := d.Family + " " + text.Word(d.Table)
		if d.Owned {
			owned = add(owned, table)
			continue
		}
		others = true
		if nftName.MatchString(d.Table) && nftName.MatchString(d.Chain) {
			commands = add(commands, fmt.Sprintf("sudo nft insert rule %s %s iifname %s ip daddr 127.0.0.1 accept", table, d.Chain, text.Word(o.Iface)))
		}
	}
	c = c.because(whyFirewall+o.Iface+".", "").do(commands...)
	if others {
		c = c.do("# and where the firewall is loaded from: /etc/nftables.conf, say")
	}
	for _, table := range owned {
		c.Seen += fmt.Sprintf("; a program owns the table %s, and nobody else can change it", table)
		c = c.do("# have the program that owns the table "+table+" accept what arrives on "+o.Iface, "sudo nft list table "+table+"   # the first line names it")
	}
	if len(drops) == 0 {
		c = c.do("sudo nft list ruleset   # see whether it accepts what arrives on " + text.Word(o.Iface))
	}
	return c
}

func checkUFW(o *Observation) Check {
	there := o.Ruleset.Value.UFW
	if c, blind := o.blind(); blind && (o.UFW || there) {
		return c
	}
	switch legacy := len(o.Legacy.Value) > 0 || o.Legacy.Err != nil; {
	case !there && o.UFW && legacy:
		return unknown("ufw is installed; its rules may be in iptables-legacy, and are not judged here")
	case !there:
		return notApplicable("ufw is off, or not installed")
	}
	c, _ := o.refusal(ufw)
	if c.Verdict == OK {
		return ok("ufw is on, and lets %s in", o.Iface)
	}
	return c.because(whyFirewall+o.Iface+". ufw also sets rp_filter whenever it starts (/etc/ufw/sysctl.conf).", "").
		do("sudo ufw allow in on "+text.Word(o.Iface), `# in /etc/ufw/sysctl.conf: net/ipv4/conf/all/rp_filter=0`)
}

func checkFirewalld(o *Observation) Check {
	there := o.Ruleset.Value.Firewalld || o.runs("firewalld")
	switch c, blind := o.blind(); {
	case o.Programs.Err != nil && !there:
		return unseen("the processes", o.Programs.Err)
	case !there:
		return notApplicable("firewalld does not run")
	case blind:
		return c
	case !o.Ruleset.Value.Firewalld:
		return unknown("firewalld runs, and its table is not there: it may write by iptables, which is judged under input")
	}
	c, _ := o.refusal(firewalld)
	if c.Verdict == OK {
		return ok("firewalld runs, and lets %s in", o.Iface)
	}
	return c.because(whyFirewall+o.Iface+", and the default zone lets little in.", "").
		do("sudo firewall-cmd --permanent --zone=trusted --add-interface="+text.Word(o.Iface), "sudo firewall-cmd --reload")
}

// nftName is a name that nft takes without quotes (string in its src/scanner.l).
var nftName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9/_.-]*$`)

// shortened is the first few items, and how many more there are.
func shortened(items []string) string {
	const most = 5
	if len(items) <= most {
		return strings.Join(items, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(items[:most], ", "), len(items)-most)
}
