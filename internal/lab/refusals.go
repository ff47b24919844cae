package lab

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// loseRefusals has Linux wait for a closed port of 127.0.0.1, as in mirrored mode
// (github.com/microsoft/WSL/issues/10855): Windows sends its RST to a wrong port. Here it
// sends none:
//
//	table ip refusals {
//	  chain output {
//	    type filter hook output priority filter
//	    oifname "vEthernet" meta l4proto tcp tcp flags rst,ack / fin,syn,rst,ack tcp sequence 0 counter drop
//	  }
//	}
//
// Only the RST for a SYN has the sequence 0 and an ACK, so those of connections pass.
// Windows' own clients meet the RST of Linux, which passes too. Whether consomme has
// the same fault is not known, so there Windows refuses.
func (b *Bench) loseRefusals() error {
	c, err := b.Windows.NFT()
	if err != nil {
		return fmt.Errorf("open nftables of Windows: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "refusals"}
	c.AddTable(table)
	c.DelTable(table)
	if b.mode != Consomme {
		c.AddTable(table)
		accept := nftables.ChainPolicyAccept
		output := c.AddChain(&nftables.Chain{
			Name: "output", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter, Policy: &accept,
		})
		const sequence, flags = 4, 13 // offsets in the header of TCP
		const fin, syn, rst, ack = 1, 2, 4, 16
		addRules(c, output, [][]expr.Any{match(expr.MetaKeyOIFNAME, ifname(windowsNIC)), match(expr.MetaKeyL4PROTO, l4proto("tcp")), {
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{fin | syn | rst | ack}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{rst | ack}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: sequence, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint32(0)},
		}, counter(), {&expr.Verdict{Kind: expr.VerdictDrop}}})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("have Windows lose its refusals: %w", err)
	}
	return nil
}
