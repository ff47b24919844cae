package chaos

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The canaries look like what wslmirror does and are not its own: what must never
// change, whichever fault comes. No fault touches them but "nft flush ruleset",
// which writes the table again. Each line of theirs, wherever it is read, has this
// word in it.
const canary = "canary"

const canaryLink = canary + "0"

var canaryAddr = netip.MustParsePrefix("203.0.113.1/25")

// canaryTable is by its rule what wslmirror puts into tables of others, but for
// the link and the comment.
const canaryTable = `add table inet canary
add chain inet canary canary { type filter hook prerouting priority raw; }
add rule inet canary canary iifname "canary0" ip daddr 127.0.0.1 tcp dport 8080 counter accept comment "canary"
`

func (w *world) buildCanaries() error {
	// A bridge of no engine that has route_localnet.
	if err := w.bench.AddBridge(canaryLink, canaryAddr); err != nil {
		return err
	}
	for _, key := range []string{"route_localnet", "accept_local"} {
		if err := w.sysctl(canaryLink, key, true); err != nil {
			return err
		}
	}
	for _, args := range []string{
		"rule add pref 32800 iif canary0 fwmark 0x1000/0x1000 lookup 255 proto static", // a mark for a bridge
		"route add 203.0.113.128/25 dev canary0 table 87",
	} {
		if out, err := w.bench.WSL.Run("ip", strings.Fields(args)...); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	if err := w.nft(canaryTable); err != nil {
		return err
	}
	s, err := w.look()
	w.canaries = s.canaries()
	for _, one := range canaryParts {
		if !slices.ContainsFunc(w.canaries, func(line string) bool { return strings.Contains(line, one) }) {
			err = errors.Join(err, fmt.Errorf("nobody looks at the canary %q: %q", one, w.canaries))
		}
	}
	return err
}

// canaryParts are one of each kind, as they are read.
var canaryParts = []string{
	"table inet canary {", `accept comment "canary"`, "32800: iif canary0 ", "dev canary0 table 87", "canary0/route_localnet=1",
}

func (s sight) canaries() (lines []string) {
	for line := range strings.Lines(s.others) {
		if strings.Contains(line, canary) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// harmed says what has become of the canaries; "" if they are well.
func (w *world) harmed(s sight) string { return difference(w.canaries, s.canaries()) }
