package nft

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// Mark is one bit. In the packet mark it marks a reply to Linux itself, so that an ip
// rule can deliver it. In the connection mark it marks a flow that began in Linux.
//
// It must not collide with other marks. WSL compares the whole packet mark of packets
// that leave through ethN with 0x1, but packets with our bit never leave. CNI and
// netavark use 0x2000, kube-proxy 0x4000 and 0x8000, Tailscale 0xff0000, Cilium 0x0f00,
// Calico the upper half. The marks of wg-quick (0xca6c) and Istio (0x539), which are
// compared as a whole, do not contain the bit either.
const Mark = 0x1000

// output marks the flows of Linux's own clients, for their replies (see flowmark). With
// the path direct it sends them straight to the container, like those of Windows,
// instead of through Windows and the proxy.
//
// It is a nat chain because the kernel evaluates these only for the first packet of a
// flow. Later packets pay nothing for the mark.
func (s Spec) output() ruleset.Chain {
	c := ruleset.Chain{
		Name: "output", Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookOutput,
		// One step before the engines. Nft does not accept the name dstnat at this
		// hook.
		Priority: *nftables.ChainPriorityNATDest - 1,
		Rules: append(s.leftAlone(nil, loadPort()),
			ruleset.Rule{Comment: fromLinux, Exprs: append(matchLoopbackNet(ipSaddr), markFlow()...)}),
	}
	if len(s.Own) > 0 {
		c.Rules = append(c.Rules, ruleset.Rule{
			Comment: toItself,
			Exprs:   slices.Concat(inAddrSet(ipDaddr, ownSet), inAddrSet(ipSaddr, ownSet), markFlow()),
		})
	}
	if s.Direct != nil {
		c.Rules = append(c.Rules, ruleset.Rule{Comment: pastProxyLinux, Exprs: slices.Concat(matchAddr(ipDaddr, loopback), toTarget())})
	}
	return c
}

// markFlow counts a flow and sets its mark.
func markFlow() []expr.Any {
	return append([]expr.Any{&expr.Counter{}}, setMark(
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, &expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true})...)
}

// flowmark marks replies of containers to Linux's own clients. An ip rule then delivers
// them locally. Without it, WSL's table 127 would send them to Windows like every
// packet for 127.0.0.1.
//
// Only flows that output marked when they began are affected. All others are left
// alone: replies to Windows must go to Windows, even if their flows are older than the
// table.
//
// Packets from Linux to its own server go through Windows and come back on loopback0,
// with the mark of their flow. They are not replies of a container.
func (s Spec) flowmark() ruleset.Chain {
	return ruleset.Chain{
		Name: "flowmark", Type: nftables.ChainTypeFilter, Hook: *nftables.ChainHookPrerouting,
		Priority: *nftables.ChainPriorityMangle,
		Rules: []ruleset.Rule{{
			Comment: "a reply to Linux itself",
			// The cheapest condition comes first. It fails for all packets to servers
			// in Linux.
			Exprs: slices.Concat(s.elsewhere(expr.MetaKeyIIF), []expr.Any{
				&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: word(Mark), Xor: word(0)},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: word(0)},
			}, setMark(
				&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true})),
		}},
	}
}

// setMark is mark set mark | Mark. load loads the mark, store stores it.
func setMark(load, store expr.Any) []expr.Any {
	return []expr.Any{load, &expr.Bitwise{
		SourceRegister: 1, DestRegister: 1, Len: 4,
		Mask: word(^uint32(Mark)), Xor: word(Mark),
	}, store}
}

// masquerade gives packets that were translated to a container a source address to which
// the container can reply. The engines mark such packets at the hook output to masquerade
// them, but WSL's chain WSLOUTPUT then overwrites the mark. This chain comes after those
// of the engines: flows that already have NAT do not reach it.
func (s Spec) masquerade() ruleset.Chain {
	return ruleset.Chain{
		// Not "masquerade": that is a keyword of nft, and a saved ruleset with a chain
		// of that name could not be loaded again.
		Name: "postrouting", Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookPostrouting,
		Priority: *nftables.ChainPriorityNATSource + 1,
		Rules: append(s.leftAloneAfterNAT(), ruleset.Rule{
			Comment: "from localhost to a container",
			Exprs: slices.Concat(matchLoopbackNet(ipSaddr), s.elsewhere(expr.MetaKeyOIF), wasTranslated(),
				[]expr.Any{&expr.Counter{}, &expr.Masq{}}),
		}),
	}
}

// leftAloneAfterNAT is leftAlone for the original destination port of a flow. It needs
// a rule for each range: nft cannot read a set of these ports together with their
// protocol.
func (s Spec) leftAloneAfterNAT() (rules []ruleset.Rule) {
	for first, last := range s.Except.Ranges() {
		port := func(p ruleset.Port) []byte { return []byte{byte(p.Number >> 8), byte(p.Number)} }
		rules = append(rules, leftAlone(matchProto(first.Proto), []expr.Any{
			&expr.Ct{Key: expr.CtKeyPROTODST, Register: 1, Direction: ctOriginal},
		}, matchRange(port(first), port(last))))
	}
	return rules
}

// ctOriginal is IP_CT_DIR_ORIGINAL of enum ip_conntrack_dir.
const ctOriginal = 0
