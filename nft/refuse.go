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
// A SYN is recognized by its source and its port, for a few seconds after the first. A mark of its flow would
// not do: conntrack keeps the flow of a client that has given up for two minutes, and
// the first SYN of the next client with the same port would be refused, also when there
// is a server by then.
//
// What an engine or we have sent elsewhere by then is not for 127.0.0.1 any more, and
// what somebody's firewall has dropped does not get here.
func (s Spec) refuse() ruleset.Chain {
	c := refusal("refuse", *nftables.ChainHookOutput, s.Index)
	c.Rules = slices.Insert(c.Rules, 1, s.leftAlone(toWindows(s.Index), loadPort())...)
	return c
}

// refuseContainers is refuse for what containers send to Windows.
func (s Spec) refuseContainers() ruleset.Chain {
	return refusal("to_windows_refuse", *nftables.ChainHookForward, s.Index)
}

func refusal(name string, hook nftables.ChainHook, index int) ruleset.Chain {
	begin := slices.Concat(toWindows(index), tcpFlagsAre(syn), []expr.Any{
		loadTH(1, thDport),
		&expr.Lookup{SourceRegister: 1, SetName: answeredSet, Invert: true},
		loadAddr(ipSaddr, 4),
		loadTH(unix.NFT_REG32_01, thSport),
		loadTH(unix.NFT_REG32_02, thDport),
	})
	return ruleset.Chain{
		Name: name, Type: nftables.ChainTypeFilter, Hook: hook, Priority: *nftables.ChainPrioritySecurity,
		Rules: []ruleset.Rule{
			{
				// Which is all packets but a few, so it must cost little.
				Comment: "of a flow that was answered",
				Exprs: []expr.Any{
					&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
					&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: word(expr.CtStateBitNEW)},
					&expr.Verdict{Kind: expr.VerdictAccept},
				},
			},
			{
				Comment: refused,
				Exprs: slices.Concat(begin, []expr.Any{
					&expr.Lookup{SourceRegister: 1, SetName: askedSet},
					&expr.Counter{},
					&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable},
				}),
			},
			{
				Comment: "asked once",
				Exprs:   append(slices.Clone(begin), &expr.Dynset{SrcRegKey: 1, SetName: askedSet, Operation: unix.NFT_DYNSET_OP_ADD}),
			},
		},
	}
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
