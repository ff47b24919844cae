package mirror

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft"
)

// returnRule is the ip rule by which the reply of a container to Linux itself is
// delivered here:
//
//	0: from all fwmark 0x1000/0x1000 lookup local proto 87
//
// Its preference is that of WSL's own rules for what comes in; those of
// preference 1 would send the reply to Windows. It outlives the process, so it
// carries a protocol number of our own, by which it is recognized.
func returnRule() *netlink.Rule {
	r := netlink.NewRule()
	mask := uint32(nft.Mark)
	r.Family, r.Priority, r.Mark, r.Mask = unix.AF_INET, 0, nft.Mark, &mask
	r.Table, r.Protocol = unix.RT_TABLE_LOCAL, routeProtocol
	return r
}

// bridgeMark is the same rule for what comes in by one bridge, behind the tables
// main and default, so that no packet ever comes to it:
//
//	32800: from all iif docker0 fwmark 0x1000/0x1000 lookup local proto 87
//
// It remembers that the sysctl route_localnet of the bridge was 0 before we set
// it, for whoever has to put it back: this daemon, its successor after a crash,
// or one in another distribution, which shares no file with it. A sysctl itself
// carries no mark.
//
// Its preference is not that of the return rule, because the kernel takes what a
// rule to be deleted does not name as a wildcard (rule_find in
// net/core/fib_rules.c): to delete the return rule, which names no link, would
// delete whichever of the two is older.
func bridgeMark(bridge string) *netlink.Rule {
	r := returnRule()
	r.Priority, r.IifName = markPriority, bridge
	return r
}

// markPriority is behind the tables main (32766) and default (32767). A rule ahead
// of them would cost every packet that is forwarded.
const markPriority = 32800

// routeProtocol marks the rules of wslmirror: 'W'. The numbers in use are in
// include/uapi/linux/rtnetlink.h and in iproute2's rt_protos.
const routeProtocol = 'W'

// An ipRules reads and writes ip rules. It keeps its socket.
type ipRules struct{ handle *netlink.Handle }

func openIPRules() (*ipRules, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if err := h.SetSocketTimeout(ipRulesTimeout); err != nil {
		h.Close()
		return nil, fmt.Errorf("set the timeout of netlink: %w", err)
	}
	return &ipRules{h}, nil
}

const (
	ipRulesTimeout = 2 * time.Second
	// ipRulesTries is how often rules are read that change meanwhile.
	ipRulesTries = 4
)

func (r *ipRules) close() { r.handle.Close() }

// read reports whether the return rule is there, and for which bridges it is
// there as a mark.
func (r *ipRules) read() (returns bool, marked []string, err error) {
	rules, err := r.handle.RuleList(unix.AF_INET)
	for try := 1; try < ipRulesTries && errors.Is(err, netlink.ErrDumpInterrupted); try++ {
		rules, err = r.handle.RuleList(unix.AF_INET)
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // which is an event
		return false, nil, fmt.Errorf("read ip rules: %w", err)
	}
	want := returnRule()
	for _, r := range rules {
		switch {
		case r.Mark != want.Mark || r.Mask == nil || *r.Mask != *want.Mask || r.Table != want.Table || r.Protocol != want.Protocol:
		case r.Priority == want.Priority && r.IifName == "":
			returns = true
		case r.Priority == markPriority && r.IifName != "":
			marked = append(marked, r.IifName)
		}
	}
	return returns, marked, nil
}

// set adds the rule or deletes it.
func (r *ipRules) set(rule *netlink.Rule, on bool) error {
	if on {
		if err := r.handle.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add ip rule: %w", err)
		}
		return nil
	}
	if err := r.handle.RuleDel(rule); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete ip rule: %w", err)
	}
	return nil
}
