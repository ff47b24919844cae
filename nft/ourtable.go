package nft

import (
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
	return t.Present && t.guards(link)
}

// TableOf is the content of our table in a ruleset.
func TableOf(rs *ruleset.Ruleset) (t Table) {
	content := rs.Own()
	for _, s := range content.Sets {
		out := Set{Name: s.Name, Kind: kindOf(s)}
		for _, e := range s.Elements {
			out.Elements = append(out.Elements, Element(e))
		}
		t.Sets = append(t.Sets, out)
	}
	for _, c := range content.Chains {
		out := Chain{Name: c.Name, Type: c.Type, Hook: c.Hook, Priority: c.Priority}
		for _, r := range c.Rules {
			out.Rules = append(out.Rules, Rule{Comment: r.Comment, Exprs: r.Exprs})
		}
		t.Chains = append(t.Chains, out)
	}
	return t
}

// kindOf is what the elements of a set of ours are.
func kindOf(s ruleset.ContentSet) SetKind {
	switch {
	case s.KeyLen == unix.IFNAMSIZ:
		return SetOfLinks
	case s.Map:
		return MapOfTargets
	}
	return SetOfPorts
}

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
