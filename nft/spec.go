package nft

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A Spec says what our table should do. Table builds it. Some kernels do not support
// all of it: see Features.
type Spec struct {
	// Index is the index of the link on which packets from Windows arrive.
	Index int
	// EngineServed are the ports that an engine's rules serve on 127.0.0.1.
	EngineServed ruleset.Ports
	// Direct maps the ports that bypass the engine's proxy to their targets. Nil means
	// that the path is proxy and never direct.
	Direct Targets
	// Repair lets Linux's own clients reach the engine-served ports and the Direct
	// ports.
	Repair bool
	// Replies says that containers may send replies to these clients. Such replies need
	// a mark: see flowmark. The chain is left out when it is not needed, because every
	// packet pays for it, including packets to servers outside containers.
	Replies bool
	// Own are the LAN addresses that WSL sends to Windows as it does 127.0.0.1. The
	// repair covers them too.
	Own []netip.Addr
	// Refuse makes closed ports of 127.0.0.1 refuse connections from Linux, and closed
	// ports of Windows refuse connections from containers.
	Refuse bool
	// ToWindows lets containers reach servers on Windows' 127.0.0.1. Nil means never.
	ToWindows *ToWindows
	// Except are the ports that the table leaves alone.
	Except ruleset.Ports
	// Guarded are the links whose packets may neither come from nor go to 127.0.0.0/8.
	Guarded []string
}

// Targets maps ports of 127.0.0.1 to where packets for them are sent.
type Targets map[ruleset.Port]netip.AddrPort

// Table builds the table for s.
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

// The names of the sets. keyTypes has their types.
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

// leftAlone is the first rule of each chain that acts on a port: it accepts the ports
// of Except. match holds the conditions before it, port the expressions that load the
// port.
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
