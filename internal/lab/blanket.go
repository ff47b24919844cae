package lab

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// BlanketRule adds to WSL the rule that people have typed by hand since 2024:
// everything from Windows for localhost is kept from the engine's DNAT, whoever
// serves the port. It returns what takes it away again.
func (b *Bench) BlanketRule() (remove func() error, err error) {
	c, err := b.WSL.NFT()
	if err != nil {
		return nil, fmt.Errorf("open nftables of WSL: %w", err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "blanket"})
	before := *nftables.ChainPriorityNATDest - 1
	chain := c.AddChain(&nftables.Chain{
		Name: "WSLPREROUTING", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: &before,
	})
	addRules(c, chain, [][]expr.Any{
		match(expr.MetaKeyIIFNAME, ifname(loopback0)),
		matchAddr(daddr, expr.CmpOpEq, single(localhost)),
		{
			&expr.Immediate{Register: 1, Data: localhost.AsSlice()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
		},
	})
	if err := c.Flush(); err != nil {
		return nil, fmt.Errorf("add the blanket rule: %w", err)
	}
	return func() error {
		c.DelTable(table)
		if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove the blanket rule: %w", err)
		}
		return nil
	}, nil
}
