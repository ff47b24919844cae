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

// ToWindows says which servers on Windows' 127.0.0.1 containers can reach, and on which
// of Linux's addresses.
type ToWindows struct {
	Ports ruleset.Ports
	// Links are those on which packets from containers arrive.
	Links []string
	// Addrs are Linux's own addresses: those of bridges and of the LAN.
	Addrs []netip.Addr
	// First and Last are the range of source ports, inclusive, that such connections
	// have in Windows. Windows returns packets to Linux only for ports that it knows as
	// Linux's.
	First, Last uint16
}

// prerouting redirects packets from containers to Linux's addresses to 127.0.0.1, which
// WSL's table 127 routes to Windows.
//
// It runs after the chains of the engines and others, so published and redirected ports
// stay as they are. It runs after the guard, so a container that sends to 127.0.0.1
// itself reaches nothing. No other ports are redirected.
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

// postrouting gives connections a source of 127.0.0.1 and one of Linux's own ports, to
// which Windows returns its answers. It runs before the engines' masquerading, which
// would choose a LAN address.
//
// The second rule keeps Linux's own clients within these ports. A client may use a
// source port that a container's connection to the same port of Windows uses or has
// used. The kernel would then give the client any other port, one that Windows does not
// know as Linux's.
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
	// One rule for each protocol, because nft reads ports only after a single protocol.
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
