package mirror

import (
	"errors"
	"fmt"
	"slices"
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

const ipRulesTimeout = 2 * time.Second

func (r *ipRules) close() { r.handle.Close() }

// hasReturn reports whether the rule is there.
func (r *ipRules) hasReturn() (bool, error) {
	rules, err := r.handle.RuleList(unix.AF_INET)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // which is an event
		return false, fmt.Errorf("read ip rules: %w", err)
	}
	want := returnRule()
	return slices.ContainsFunc(rules, func(r netlink.Rule) bool {
		return r.Priority == want.Priority && r.Mark == want.Mark && r.Mask != nil && *r.Mask == *want.Mask &&
			r.Table == want.Table && r.Protocol == want.Protocol
	}), nil
}

// setReturn adds the rule or deletes it.
func (r *ipRules) setReturn(on bool) error {
	if on {
		if err := r.handle.RuleAdd(returnRule()); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add ip rule: %w", err)
		}
		return nil
	}
	if err := r.handle.RuleDel(returnRule()); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete ip rule: %w", err)
	}
	return nil
}
