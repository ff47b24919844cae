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
// The guard comes before. So a container that sends to 127.0.0.1 itself reaches
// nothing, and no other ports than these.
func (w ToWindows) prerouting() ruleset.Chain {
	return ruleset.Chain{
		Name: "to_windows", Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookPrerouting,
		Priority: *nftables.ChainPriorityNATDest - 1,
		Rules: []ruleset.Rule{{
			Comment: fromContainers,
			Exprs: slices.Concat([]expr.Any{
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
				&expr.Lookup{SourceRegister: 1, SetName: containersSet},
			}, inAddrSet(ipDaddr, addressesSet), inPortSet(windowsSet), toLocalhost()),
		}},
	}
}

// postrouting has Windows see one of Linux's own ports of 127.0.0.1, to which it
// returns its answers. It comes before the engines' masquerading, which would take an
// address of the LAN.
func (w ToWindows) postrouting(index int) ruleset.Chain {
	c := ruleset.Chain{
		Name: "to_windows_source", Type: nftables.ChainTypeNAT, Hook: *nftables.ChainHookPostrouting,
		Priority: *nftables.ChainPriorityNATSource - 1,
	}
	elsewhere := matchLoopbackNet(ipSaddr)
	elsewhere[1].(*expr.Cmp).Op = expr.CmpOpNeq
	// Two rules, because nft reads ports only after a single protocol.
	for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		c.Rules = append(c.Rules, ruleset.Rule{
			Comment: "from one of Linux's ports",
			Exprs: slices.Concat(toWindows(index), elsewhere, wasTranslated(), matchProto(proto), []expr.Any{
				&expr.Immediate{Register: 1, Data: loopback},
				&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, w.First)},
				&expr.Immediate{Register: 3, Data: binary.BigEndian.AppendUint16(nil, w.Last)},
				&expr.NAT{
					Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, Specified: true,
					RegAddrMin: 1, RegAddrMax: 1, RegProtoMin: 2, RegProtoMax: 3,
				},
			}),
		})
	}
	return c
}
