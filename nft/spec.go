package nft

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A Spec says what our table is for. Table makes it. Not every kernel takes all of it:
// see Features.
type Spec struct {
	// Index is the link on which the packets from Windows arrive.
	Index int
	// EngineServed are the ports that an engine serves on 127.0.0.1 by its rules.
	EngineServed ruleset.Ports
	// Direct are the ports that are sent past the engine's proxy, and where to.
	// If it is nil, no port ever is: the path is proxy.
	Direct Targets
	// Repair has Linux's own clients reach the engine-served ports, and those of Direct.
	Repair bool
	// Replies says that containers may have replies for them, which need a mark: see
	// flowmark. Without need there is none, because all packets pay for it, also
	// those to servers of Linux that are in no container.
	Replies bool
	// Own are the addresses of the LAN that WSL sends to Windows as it does with
	// 127.0.0.1: the repair is for them too.
	Own []netip.Addr
	// Refuse has closed ports of 127.0.0.1 refuse Linux's clients, and those of Windows
	// containers too.
	Refuse bool
	// ToWindows lets containers reach servers on Windows' 127.0.0.1. If it is nil,
	// none ever does.
	ToWindows *ToWindows
	// Except are the ports that the table leaves alone.
	Except ruleset.Ports
	// Guarded are the links from which no packet may have to do with
	// 127.0.0.0/8.
	Guarded []string
}

// Targets are ports of 127.0.0.1 and where packets for them are sent.
type Targets map[ruleset.Port]netip.AddrPort

// Table is the table for s.
func (s Spec) Table() Table {
	t := Table{
		Sets:   []ruleset.Set{linkSet(guardedSet, s.Guarded), portSet(servedSet, s.EngineServed)},
		Chains: []ruleset.Chain{s.prerouting(), s.guard()},
	}
	direct := s.Direct != nil
	if direct {
		t.Sets = append(t.Sets, targetMap(directMap, s.Direct))
	}
	if s.Repair {
		t.Chains = append(t.Chains, s.output())
	}
	if s.Repair && s.Replies {
		t.Chains = append(t.Chains, s.flowmark())
	}
	if s.Repair && len(s.Own) > 0 {
		t.Sets = append(t.Sets, addrSet(ownSet, s.Own))
	}
	if s.Repair || direct {
		t.Chains = append(t.Chains, s.masquerade())
	}
	if s.Refuse {
		t.Sets = append(t.Sets, dynamicSet(answeredSet), dynamicSet(askedSet))
		t.Chains = append(t.Chains, s.refuse(), s.unanswered())
	}
	if w := s.ToWindows; w != nil {
		t.Sets = append(t.Sets, linkSet(containersSet, w.Links), addrSet(addressesSet, w.Addrs), portSet(windowsSet, w.Ports))
		t.Chains = append(t.Chains, w.prerouting(s.Refuse), w.postrouting(s.Index))
	}
	if !s.Except.Empty() {
		t.Sets = append(t.Sets, portSet(exceptSet, s.Except))
	}
	slices.SortFunc(t.Sets, func(a, b ruleset.Set) int { return strings.Compare(a.Name, b.Name) })
	slices.SortStableFunc(t.Chains, func(a, b ruleset.Chain) int { return int(a.Priority) - int(b.Priority) })
	return t
}

// The names of the sets. Their types are in keyTypes.
const (
	addressesSet  = "addresses"
	answeredSet   = "answered"
	askedSet      = "asked"
	containersSet = "containers"
	directMap     = "direct"
	exceptSet     = "except"
	guardedSet    = "guarded"
	ownSet        = "own"
	servedSet     = "engine_served"
	windowsSet    = "windows"
)

// leftAlone is the first rule of each chain that does something to a port: nothing to
// those of Except. match and port are what is matched before, and what loads the port.
func (s Spec) leftAlone(match, port []expr.Any) []ruleset.Rule {
	if s.Except.Empty() {
		return nil
	}
	return []ruleset.Rule{leftAlone(match, port, []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: exceptSet}})}
}

func leftAlone(exprs ...[]expr.Any) ruleset.Rule {
	return ruleset.Rule{
		Comment: "left alone",
		Exprs:   append(slices.Concat(exprs...), &expr.Verdict{Kind: expr.VerdictAccept}),
	}
}
