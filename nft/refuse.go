package nft

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// refuse has a closed port of 127.0.0.1 refuse Linux's clients, which would wait for two
// minutes otherwise, because Windows' refusal does not reach them
// (microsoft/WSL#10855).
//
// On localhost no SYN is ever lost. So one that has to be sent again, which the kernel
// does after a second (TCP_TIMEOUT_INIT), is for a port that is closed, or for a server
// that has no room for more connections. Such a server has answered others lately:
// ports that have done so are never refused, nor are those that served somebody when
// the table was made (see TableOwner.Serving). The refusal is an ICMP message, which
// stays in Linux, since WSL sends to Windows only TCP and UDP. A socket takes it for
// ECONNREFUSED (tcp_v4_err in net/ipv4/tcp_ipv4.c).
//
// Chains of nat are asked for the first packet of a flow alone, so this costs all the
// others nothing. Conntrack forgets the flow of an unanswered SYN after a second, by the
// policy of the object asked: then the SYN that is sent again is the first packet of a
// flow once more. It is recognized by its source and its port, for a few seconds.
//
// What somebody's firewall drops has never left for Windows: see unanswered.
func (s Spec) refuse() ruleset.Chain {
	return ruleset.Chain{
		Name: "refuse", Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookOutput,
		// Before anybody's NAT, which ends the chains of nat.
		Priority: *nftables.ChainPriorityNATDest - 2,
		Rules:    []ruleset.Rule{refusal(toWindows(s.Index))},
	}
}

// refusal is the rule for a SYN that matches and was sent before.
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

// unanswered remembers the SYNs that leave for Windows' 127.0.0.1, by the port that the
// client has asked for.
func (s Spec) unanswered() ruleset.Chain {
	return ruleset.Chain{
		Name: "unanswered", Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookPostrouting,
		// Before anybody's NAT, as refuse.
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

// firstOfUnanswered matches a SYN to a port that has not answered, and loads all of the
// key of asked but the port.
func firstOfUnanswered() []expr.Any {
	return append(tcpFlagsAre(syn),
		loadTH(1, thDport),
		&expr.Lookup{SourceRegister: 1, SetName: answeredSet, Invert: true},
		loadAddr(ipSaddr, 4),
		loadTH(unix.NFT_REG32_01, thSport))
}

// askedTimeout is the object of conntrack that unanswered names.
const askedTimeout = "asked"

// forgetSYN is what it does. All but the first are the kernel's own timeouts, in seconds:
// for a connection that is established the library has another one.
var forgetSYN = expr.CtTimeout{
	L3Proto: unix.NFPROTO_IPV4, L4Proto: unix.IPPROTO_TCP,
	Policy: expr.CtStatePolicyTimeout{expr.CtStateTCPSYNSENT: 1, expr.CtStateTCPESTABLISHED: 432_000},
}

// answered is the rule for what answers a SYN of Linux: a server in Linux, which does so
// by way of Windows, or in Windows.
func (s Spec) answered() ruleset.Rule {
	return ruleset.Rule{
		Comment: "a port that answers",
		Exprs: slices.Concat(s.fromWindows(), tcpFlagsAre(syn|ack), []expr.Any{
			loadTH(1, thSport),
			&expr.Dynset{SrcRegKey: 1, SetName: answeredSet, Operation: unix.NFT_DYNSET_OP_UPDATE},
		}),
	}
}

// The flags of TCP.
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
