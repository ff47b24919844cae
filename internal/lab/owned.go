package lab

import (
	"fmt"
	"io"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// OwnTable makes a table that its netlink socket owns, as a firewall may do, so
// that nobody else can change it. It drops, before any NAT, what is for a TCP port
// of 127.0.0.1 and did not arrive on lo. The table is gone when it is closed.
func (h *Host) OwnTable(name string, port uint16) (io.Closer, error) {
	c, err := h.NFT(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	table := c.AddTable(&nftables.Table{Name: name, Family: nftables.TableFamilyIPv4, Flags: nftables.TableFlagOwner})
	chain := c.AddChain(&nftables.Chain{
		Name: "arriving", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	addRules(c, chain, [][]expr.Any{
		matchNot(expr.MetaKeyIIFNAME, ifname("lo")),
		matchAddr(daddr, expr.CmpOpEq, single(netip.AddrFrom4([4]byte{127, 0, 0, 1}))),
		match(expr.MetaKeyL4PROTO, l4proto("tcp")), matchPort(port), counter(),
		{&expr.Verdict{Kind: expr.VerdictDrop}},
	})
	owned := lasting{c}
	if err := c.Flush(); err != nil {
		owned.Close()
		return nil, fmt.Errorf("make a table with an owner: %w", err)
	}
	h.keep(owned)
	return owned, nil
}

type lasting struct{ *nftables.Conn }

func (l lasting) Close() error { return l.CloseLasting() }
