package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// ToWindows says which servers on Windows' 127.0.0.1 containers reach, by which of
// Linux's addresses.
type ToWindows struct {
	Ports ruleset.Ports
	// Links are those on which packets of containers arrive.
	Links []string
	// Addrs are Linux's own addresses: those of bridges, and of the LAN.
	Addrs []netip.Addr
	// First and Last are the source ports that such connections have in Windows, both
	// ends inclusive. Windows sends back to Linux only what it knows as Linux's.
	First, Last uint16
}

// prerouting sends what a container sends to one of Linux's addresses to 127.0.0.1
// instead, which is Windows' by WSL's table 127.
//
// It comes after the engines' chains, and others': what somebody has published or
// redirected stays as it is. The guard comes before. So a container that sends to
// 127.0.0.1 itself reaches nothing, and no other ports than these.
func (w ToWindows) prerouting(refuse bool) ruleset.Chain {
	match := slices.Concat([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: containersSet},
	}, inAddrSet(ipDaddr, addressesSet), inPortSet(windowsSet))
	c := ruleset.Chain{
		Name: "to_windows", Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookPrerouting,
		Priority: *nftables.ChainPriorityNATDest + 1,
	}
	if refuse {
		c.Rules = append(c.Rules, refusal(match))
	}
	c.Rules = append(c.Rules, ruleset.Rule{Comment: fromContainers, Exprs: append(match, toLocalhost()...)})
	return c
}

// postrouting has Windows see one of Linux's own ports of 127.0.0.1, to which it
// returns its answers. It comes before the engines' masquerading, which would take an
// address of the LAN.
//
// Where a client of Linux uses a port that a container's connection to the same port of
// Windows has, or has had, the kernel would give that client any other, which Windows
// does not know as Linux's.
func (w ToWindows) postrouting(index int) ruleset.Chain {
	c := ruleset.Chain{
		Name: "to_windows_source", Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookPostrouting,
		Priority: *nftables.ChainPriorityNATSource - 1,
	}
	first, last := binary.BigEndian.AppendUint16(nil, w.First), binary.BigEndian.AppendUint16(nil, w.Last)
	elsewhere := matchLoopbackNet(ipSaddr)
	elsewhere[1].(*expr.Cmp).Op = expr.CmpOpNeq
	fromContainer := append(elsewhere, wasTranslated()...)
	ownPort := append([]expr.Any{loadTH(1, thSport)}, matchRange(first, last)...)
	// A rule for each protocol, because nft reads ports only after a single one.
	for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		snat := []expr.Any{
			&expr.Immediate{Register: 1, Data: loopback},
			&expr.Immediate{Register: 2, Data: first},
			&expr.Immediate{Register: 3, Data: last},
			&expr.NAT{
				Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, Specified: true,
				RegAddrMin: 1, RegAddrMax: 1, RegProtoMin: 2, RegProtoMax: 3,
			},
		}
		c.Rules = append(c.Rules,
			ruleset.Rule{
				Comment: "from one of Linux's ports",
				Exprs:   slices.Concat(toWindows(index), fromContainer, matchProto(proto), snat),
			},
			ruleset.Rule{
				Comment: "Linux keeps its own",
				Exprs:   slices.Concat(toWindows(index), matchLoopbackNet(ipSaddr), matchProto(proto), ownPort, snat),
			})
	}
	return c
}
