package nft

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// Mark is the bit of the packet mark by which a reply to Linux itself finds its
// way, and in the connection mark the bit of a flow that began in Linux.
//
// It keeps clear of who else marks packets: WSL compares the whole packet mark
// of what leaves by ethN with 0x1 (but a packet that has our bit never leaves),
// CNI and netavark use 0x2000, kube-proxy 0x4000 and 0x8000, Tailscale
// 0xff0000, Cilium 0x0f00, Calico the upper half; wg-quick's 0xca6c and Istio's
// 0x539, which are compared as a whole, do not have the bit either.
const Mark = 0x1000

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

// markFlow counts a flow and gives it the mark.
func markFlow() []expr.Any {
	return append([]expr.Any{&expr.Counter{}}, setMark(
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, &expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true})...)
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
		Rules: append(s.leftAloneAfterNAT(), ruleset.Rule{
			Comment: "from localhost to a container",
			Exprs: slices.Concat(matchLoopbackNet(ipSaddr), s.elsewhere(expr.MetaKeyOIF), wasTranslated(),
				[]expr.Any{&expr.Counter{}, &expr.Masq{}}),
		}),
	}
}

// leftAloneAfterNAT is leftAlone by the port that the client of a flow asked for. Nft
// cannot read a set of these together with their protocol.
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
