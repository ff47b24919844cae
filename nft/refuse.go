package nft

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// refuse makes closed ports of 127.0.0.1 refuse Linux's clients. Without it they would
// wait for two minutes, because Windows' refusal does not reach them
// (microsoft/WSL#10855).
//
// On localhost no SYN is lost. The kernel repeats a SYN after a second
// (TCP_TIMEOUT_INIT). So a repeated SYN means that the port is closed or that its
// server has no room for more connections. Such a server has answered other clients
// recently. Ports that have answered are never refused, nor are ports on which somebody
// listened when the table was created (see TableOwner.Serving). The refusal is an ICMP
// message, which stays in Linux because WSL sends only TCP and UDP to Windows. A socket
// reports it as ECONNREFUSED (tcp_v4_err in net/ipv4/tcp_ipv4.c).
//
// The kernel evaluates nat chains only for the first packet of a flow, so later packets
// pay nothing. The object asked makes conntrack forget the flow of an unanswered SYN
// after a second, so the repeated SYN is again the first packet of a flow. For a few
// seconds it is recognized by its source address and its ports.
//
// A SYN that a firewall drops never leaves for Windows: see unanswered.
func (s Spec) refuse() ruleset.Chain {
	return ruleset.Chain{
		Name: "refuse", Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookOutput,
		// Before all other NAT, which would end the nat chains.
		Priority: *nftables.ChainPriorityNATDest - 2,
		Rules:    []ruleset.Rule{refusal(toWindows(s.Index))},
	}
}

// refusal is the rule for a matching SYN that was sent before.
func refusal(match []expr.Any) ruleset.Rule {
	return ruleset.Rule{
		Comment: refused,
		Exprs: slices.Concat(match, firstOfUnanswered(), []expr.Any{
			loadTH(unix.NFT_REG32_02, thDport),
			&expr.Lookup{SourceRegister: 1, SetName: askedSet},
			&expr.Counter{},
			&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable},
		}),
	}
}

// unanswered remembers SYNs that leave for Windows' 127.0.0.1, with the port to which
// the client connects.
func (s Spec) unanswered() ruleset.Chain {
	return ruleset.Chain{
		Name: "unanswered", Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookPostrouting,
		// Before all other NAT, like refuse.
		Priority: *nftables.ChainPriorityNATSource - 2,
		Rules: append(s.leftAloneAfterNAT(), ruleset.Rule{
			Comment: "asked once",
			Exprs: slices.Concat(toWindows(s.Index), firstOfUnanswered(), []expr.Any{
				&expr.Ct{Key: expr.CtKeyPROTODST, Register: unix.NFT_REG32_02, Direction: ctOriginal},
				&expr.Dynset{SrcRegKey: 1, SetName: askedSet, Operation: unix.NFT_DYNSET_OP_ADD},
				&expr.Objref{Type: unix.NFT_OBJECT_CT_TIMEOUT, Name: askedTimeout},
			}),
		}),
	}
}

// firstOfUnanswered matches a SYN to a port that has not answered. It loads the key of
// the set asked, except the port.
func firstOfUnanswered() []expr.Any {
	return append(tcpFlagsAre(syn),
		loadTH(1, thDport),
		&expr.Lookup{SourceRegister: 1, SetName: answeredSet, Invert: true},
		loadAddr(ipSaddr, 4),
		loadTH(unix.NFT_REG32_01, thSport))
}

// askedTimeout is the conntrack timeout object that unanswered uses.
const askedTimeout = "asked"

// forgetSYN is the policy of that object, in seconds. Only the first timeout differs from
// the kernel's. The second is the kernel's default: the library has another one for
// established connections.
var forgetSYN = expr.CtTimeout{
	L3Proto: unix.NFPROTO_IPV4, L4Proto: unix.IPPROTO_TCP,
	Policy: expr.CtStatePolicyTimeout{expr.CtStateTCPSYNSENT: 1, expr.CtStateTCPESTABLISHED: 432_000},
}

// answered is the rule for answers to SYNs from Linux. They come from a server in
// Windows, or through Windows from a server in Linux.
func (s Spec) answered() ruleset.Rule {
	return ruleset.Rule{
		Comment: "a port that answers",
		Exprs: slices.Concat(s.fromWindows(), tcpFlagsAre(syn|ack), []expr.Any{
			loadTH(1, thSport),
			&expr.Dynset{SrcRegKey: 1, SetName: answeredSet, Operation: unix.NFT_DYNSET_OP_UPDATE},
		}),
	}
}

// The TCP flags.
const (
	fin = 1 << iota
	syn
	rst
	_ // psh
	ack
)

// tcpFlagsAre is tcp flags & (fin | syn | rst | ack) == want.
func tcpFlagsAre(want byte) []expr.Any {
	return append(matchProto(unix.IPPROTO_TCP),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlags, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{fin | syn | rst | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{want}})
}

const icmpPortUnreachable = 3 // ICMP_PORT_UNREACH of uapi/linux/icmp.h
