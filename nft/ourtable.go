package nft

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// An OurTable is what the kernel has under the name of our table.
type OurTable struct {
	// Present says that the table exists, whoever created it.
	Present bool
	// Owner is the netlink port ID of the socket that owns the table, 0 if nobody owns
	// it. See TableOwner.PortID.
	Owner uint32
	Table
}

// Guards reports whether the table keeps packets from link out of 127.0.0.0/8.
func (t OurTable) Guards(link string) bool {
	return t.Present && slices.Contains(t.Guarded(), link)
}

// TableOf returns the content of our table in a ruleset.
func TableOf(rs *ruleset.Ruleset) Table { return Table(rs.Own()) }

// The comments of the rules that count. Each comment is on one rule.
const (
	served         = "engine-served"
	mirrored       = "mirrored"
	pastProxy      = "past the proxy"
	pastProxyLinux = "past the proxy, from Linux"
	fromLinux      = "a flow from Linux"
	toItself       = "from Linux to its own address"
	refused        = "asked again: closed"
	fromContainers = "from containers"
)

// A Count is what rules have counted. A nat rule sees only the first packet of each
// flow, so Packets is the number of connections.
type Count struct{ Packets, Bytes uint64 }

// Counters are what the rules of our table have counted.
type Counters struct {
	// Sent are connections from Windows that our rules have sent on. Windows also
	// includes those that an engine serves.
	Sent, Windows Count
	// Linux are connections from Linux's own clients to localhost, Own those to the
	// machine's own addresses, Containers those from containers to Windows.
	Linux, Own, Containers Count
	// Refused are attempts to connect to a closed port.
	Refused Count
}

// ReadCounters reads the counters of our table. They are zero if there is no table.
func ReadCounters(r *ruleset.Reader) (c Counters, err error) {
	rules, err := r.Rules(unix.NFPROTO_IPV4, TableName, "")
	for _, rule := range rules {
		for _, to := range map[string][]*Count{
			mirrored: {&c.Sent, &c.Windows}, pastProxy: {&c.Sent, &c.Windows}, served: {&c.Windows},
			fromLinux: {&c.Linux}, toItself: {&c.Own}, fromContainers: {&c.Containers}, refused: {&c.Refused},
		}[rule.Comment] {
			packets, bytes := rule.Counted()
			to.Packets += packets
			to.Bytes += bytes
		}
	}
	return c, err
}
