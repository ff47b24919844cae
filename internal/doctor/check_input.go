package doctor

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// checkInput looks for a firewall that takes Windows for a stranger. Those of ufw
// and firewalld are judged by their settings.
func checkInput(o *Observation) Check {
	switch {
	case o.UFW.Value.Enabled, o.Ruleset.Value.Firewalld:
		return notApplicable("the firewall is that of ufw or firewalld")
	case o.Ruleset.Err != nil:
		return unseen("the rules for what comes in", o.Ruleset.Err)
	case o.Listeners.Err != nil && !errors.Is(o.Listeners.Err, ports.ErrNoUDP):
		return unseen("who listens", o.Listeners.Err)
	}
	var refused, commands []string
	for _, r := range o.Ruleset.Value.Refusals {
		var here []string
		for _, l := range o.Listeners.Value {
			if o.refuses(r, l) {
				here = add(here, fmt.Sprintf("%d/%s", l.Addr.Port(), l.Proto))
			}
		}
		if len(here) == 0 {
			continue
		}
		at := fmt.Sprintf("%s %s %s", r.At.Family(), r.At.Table(), r.At.Chain())
		refused = append(refused, fmt.Sprintf("%s (%s)", shortened(here), at))
		if nftName.MatchString(r.At.Table()) && nftName.MatchString(r.At.Chain()) {
			commands = add(commands, fmt.Sprintf("sudo nft insert rule %s iifname %s ip daddr 127.0.0.1 accept", at, word(o.Iface)))
		}
	}
	if len(refused) == 0 {
		return ok("no rule drops what comes by %s to a port on which somebody listens", o.Iface)
	}
	return fault("rules drop what comes by %s to %s", o.Iface, strings.Join(refused, ", ")).
		because("A firewall that trusts lo alone takes Windows for a stranger: its localhost comes by "+o.Iface+".", "").
		do(commands...).
		do("# and where the firewall is loaded from: /etc/nftables.conf, say")
}

// refuses reports whether r drops what Windows sends to l.
func (o *Observation) refuses(r ruleset.Refusal, l ports.Listener) bool {
	for _, p := range protocols {
		if addr := l.Addr.Addr(); p.name == l.Proto && !l.Bound && l.TakesIPv4() && (addr.IsUnspecified() || addr == localhost) {
			return r.Ports.Has(ruleset.Port{Proto: p.number, Number: l.Addr.Port()})
		}
	}
	return false
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
