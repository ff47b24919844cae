package nft

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// An OurTable is what the kernel holds under the name of our table.
type OurTable struct {
	// Present says that there is such a table, whoever made it.
	Present bool
	// Owner is the netlink port ID of the socket that owns the table, 0 if none
	// does. See TableOwner.PortID.
	Owner uint32
	Table
}

// Guards reports whether the table keeps packets of a link from 127.0.0.0/8.
func (t OurTable) Guards(link string) bool {
	return t.Present && slices.Contains(t.Guarded(), link)
}

// TableOf is the content of our table in a ruleset.
func TableOf(rs *ruleset.Ruleset) Table { return Table(rs.Own()) }

// Counters are what the rules of WSLPREROUTING have counted that send a packet on.
// A nat chain sees only the first packet of each flow, so Packets counts
// connections.
type Counters struct{ Packets, Bytes uint64 }

// ReadCounters reads the counters of our table, which are zero if there is none.
func ReadCounters(r *ruleset.Reader) (c Counters, err error) {
	rules, err := r.Rules(unix.NFPROTO_IPV4, TableName, PreroutingChain)
	for _, rule := range rules {
		if rule.Comment == mirrored || rule.Comment == pastProxy {
			packets, bytes := rule.Counted()
			c.Packets += packets
			c.Bytes += bytes
		}
	}
	return c, err
}
