package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A Spec says what our table is for. Table makes it.
type Spec struct {
	// Index is the link by which the packets from Windows come.
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
	// Guarded are the links from which no packet may have to do with
	// 127.0.0.0/8.
	Guarded []string
}

// Targets are ports of 127.0.0.1 and where packets for them are sent.
type Targets map[ruleset.Port]netip.AddrPort

// Mark is the bit of the packet mark by which a reply to Linux itself finds its
// way, and in the connection mark the bit of a flow that began in Linux.
//
// It keeps clear of who else marks packets: WSL compares the whole packet mark
// of what leaves by ethN with 0x1 (but a packet that has our bit never leaves),
// CNI and netavark use 0x2000, kube-proxy 0x4000 and 0x8000, Tailscale
// 0xff0000, Cilium 0x0f00, Calico the upper half; wg-quick's 0xca6c and Istio's
// 0x539, which are compared as a whole, do not have the bit either.
const Mark = 0x1000

// The names of the sets and of the rules that are counted.
const (
	servedSet  = "engine_served"
	directMap  = "direct"
	guardedSet = "guarded"
	served     = "engine-served"
	mirrored   = "mirrored"
	pastProxy  = "past the proxy"
)

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
	if s.Repair || direct {
		t.Chains = append(t.Chains, s.masquerade())
	}
	slices.SortFunc(t.Sets, func(a, b ruleset.Set) int { return strings.Compare(a.Name, b.Name) })
	slices.SortStableFunc(t.Chains, func(a, b ruleset.Chain) int { return int(a.Priority) - int(b.Priority) })
	return t
}

// prerouting makes Windows' 127.0.0.1 reach what Linux serves on its own.
//
// The rule "dnat to 127.0.0.1" changes no address. It completes NAT for the
// flow, and the kernel then passes over all later nat chains at this hook, the
// container engine's among them (nf_nat_inet_fn in net/netfilter/nf_nat_core.c
// asks a chain only for flows that have no NAT yet). Accept or return would
// only end this one chain. So the packet is delivered locally, to the engine's
// userland proxy or to whoever listens.
//
// The engine-served ports are left alone: there the engine's DNAT is what serves
// localhost, and nothing of worth listens. Those in the map direct
// go to the container itself.
func (s Spec) prerouting() ruleset.Chain {
	toLocalhost := slices.Concat(s.fromWindows(), matchAddr(ipDaddr, loopback))
	c := ruleset.Chain{
		Name: PreroutingChain,
		Type: nftables.ChainTypeNAT,
		Hook: *nftables.ChainHookPrerouting,
		// One step before the engines, whose DNAT is at dstnat.
		Priority: *nftables.ChainPriorityNATDest - 1,
		Rules: []ruleset.Rule{{
			Comment: served,
			// Accept ends this chain only: the engine's comes next.
			Exprs: slices.Concat(toLocalhost, inPortSet(servedSet), []expr.Any{
				&expr.Counter{},
				&expr.Verdict{Kind: expr.VerdictAccept},
			}),
		}},
	}
	if s.Direct != nil {
		c.Rules = append(c.Rules, ruleset.Rule{Comment: pastProxy, Exprs: slices.Concat(toLocalhost, toTarget())})
	}
	c.Rules = append(c.Rules, ruleset.Rule{
		Comment: mirrored,
		Exprs: slices.Concat(toLocalhost, []expr.Any{
			&expr.Counter{},
			&expr.Immediate{Register: 1, Data: loopback},
			// The kernel reports a single address as a range of one.
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegAddrMax: 1},
		}),
	})
	return c
}

// output marks the flows of Linux's own clients, for their replies (see
// flowmark), and sends those past the proxy the same way as Windows' rather than
// by Windows and the proxy.
//
// It is a nat chain because the kernel asks those for the first packet of a flow
// alone: the mark costs the others nothing.
func (s Spec) output() ruleset.Chain {
	c := ruleset.Chain{
		Name: "output", Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookOutput,
		// One step before the engines. Nft does not take the name dstnat here.
		Priority: *nftables.ChainPriorityNATDest - 1,
		Rules: []ruleset.Rule{{
			Comment: "a flow from Linux",
			Exprs: slices.Concat(matchLoopbackNet(ipSaddr), setMark(
				&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, &expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true})),
		}},
	}
	if s.Direct != nil {
		c.Rules = append(c.Rules, ruleset.Rule{Comment: pastProxy, Exprs: slices.Concat(matchAddr(ipDaddr, loopback), toTarget())})
	}
	return c
}

// toTarget is counter dnat ip to meta l4proto . th dport map @direct. For a port
// that is not in the map, the rule ends before it counts.
func toTarget() []expr.Any {
	return slices.Concat(loadPort(), []expr.Any{
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: directMap},
		&expr.Counter{},
		// The address fills the first word of the value, the port the second.
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, Specified: true,
			RegAddrMin: 1, RegAddrMax: 1, RegProtoMin: unix.NFT_REG32_01, RegProtoMax: unix.NFT_REG32_01,
		},
	})
}

// guard keeps containers from 127.0.0.0/8 where route_localnet would let them
// reach it (CVE-2020-8558), in Linux and, by WSL's table 127, in Windows. It
// comes before nat turns the address of an honest reply back into 127.0.0.1, so
// that such a reply still carries the bridge's; and before conntrack, so that a
// forged packet touches no flow.
func (s Spec) guard() ruleset.Chain {
	drop := func(offset uint32, comment string) ruleset.Rule {
		return ruleset.Rule{Comment: comment, Exprs: slices.Concat(matchLoopbackNet(offset), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Lookup{SourceRegister: 1, SetName: guardedSet},
			&expr.Counter{},
			&expr.Verdict{Kind: expr.VerdictDrop},
		})}
	}
	return ruleset.Chain{
		Name: "guard", Type: nftables.ChainTypeFilter, Hook: *nftables.ChainHookPrerouting,
		Priority: *nftables.ChainPriorityRaw - 1,
		Rules: []ruleset.Rule{
			// Every packet comes by here, and all that Windows sends is of that net.
			{Comment: "from Windows", Exprs: append(s.fromWindows(), &expr.Verdict{Kind: expr.VerdictAccept})},
			drop(ipDaddr, "to localhost"), drop(ipSaddr, "as localhost"),
		},
	}
}

// flowmark marks the replies of containers to Linux's own clients, which an ip
// rule then delivers here. Without it, WSL's table 127 would send them to
// Windows, as it does with everything for 127.0.0.1.
//
// The flows are those that output has marked when they began. Others are left
// alone, whatever they are: replies to Windows must go to Windows, also those of
// flows that began before there was a table.
//
// What Linux sends to a server of its own goes by Windows and comes back by
// loopback0, with the mark of its flow; it is no reply of a container.
func (s Spec) flowmark() ruleset.Chain {
	return ruleset.Chain{
		Name: "flowmark", Type: nftables.ChainTypeFilter, Hook: *nftables.ChainHookPrerouting,
		Priority: *nftables.ChainPriorityMangle,
		Rules: []ruleset.Rule{{
			Comment: "a reply to Linux itself",
			// What costs least, and fails for all that goes to servers of Linux, comes
			// first.
			Exprs: slices.Concat(s.elsewhere(expr.MetaKeyIIF), []expr.Any{
				&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: word(Mark), Xor: word(0)},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: word(0)},
			}, setMark(
				&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true})),
		}},
	}
}

// setMark is mark set mark | Mark, of what load loads and store stores.
func setMark(load, store expr.Any) []expr.Any {
	return []expr.Any{load, &expr.Bitwise{
		SourceRegister: 1, DestRegister: 1, Len: 4,
		Mask: word(^uint32(Mark)), Xor: word(Mark),
	}, store}
}

// masquerade gives a packet that the kernel serves a source address that the
// container can answer. The engines mark such packets at the hook output to
// have them masqueraded, and WSL's chain WSLOUTPUT then overwrites the mark. It
// comes after the engines': a flow that has its NAT does not get here.
func (s Spec) masquerade() ruleset.Chain {
	return ruleset.Chain{
		// Not "masquerade": that is a word of nft's language, and a ruleset that was
		// saved with such a chain in it could not be loaded again.
		Name: "postrouting", Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookPostrouting,
		Priority: *nftables.ChainPriorityNATSource + 1,
		Rules: []ruleset.Rule{{
			Comment: "from localhost to a container",
			Exprs: slices.Concat(matchLoopbackNet(ipSaddr), s.elsewhere(expr.MetaKeyOIF), []expr.Any{
				&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: word(ctStatusDNAT), Xor: word(0)},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: word(0)},
				&expr.Counter{},
				&expr.Masq{},
			}),
		}},
	}
}

// ctStatusDNAT is IPS_DST_NAT of enum ip_conntrack_status in nf_conntrack_common.h.
const ctStatusDNAT = 1 << 5

// fromWindows is iif "loopback0". An index compares one word, and a link that
// comes back under the same name is a different link.
func (s Spec) fromWindows() []expr.Any { return matchLink(expr.MetaKeyIIF, expr.CmpOpEq, s.Index) }

// elsewhere is iif (or oif) != "loopback0" and != "lo".
func (s Spec) elsewhere(key expr.MetaKey) []expr.Any {
	const lo = 1 // LOOPBACK_IFINDEX in include/net/flow.h
	return append(matchLink(key, expr.CmpOpNeq, s.Index), matchLink(key, expr.CmpOpNeq, lo)...)
}

func matchLink(key expr.MetaKey, op expr.CmpOp, index int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: word(uint32(index))},
	}
}

// word is a number as meta and ct have it.
func word(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// The offsets of the addresses in a header of IPv4.
const (
	ipSaddr = 12
	ipDaddr = 16
)

func matchAddr(offset uint32, addr []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(addr))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr},
	}
}

// matchLoopbackNet is ip daddr (or saddr) 127.0.0.0/8, whose prefix is one byte.
func matchLoopbackNet(offset uint32) []expr.Any { return matchAddr(offset, []byte{127}) }

// loadPort is meta l4proto . th dport, in the registers from 1.
func loadPort() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Payload{DestRegister: unix.NFT_REG32_01, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

func inPortSet(name string) []expr.Any {
	return append(loadPort(), &expr.Lookup{SourceRegister: 1, SetName: name})
}
