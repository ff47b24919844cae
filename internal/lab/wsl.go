package lab

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// addWSLChains adds the chains that WSL itself has in a mirrored network
// (src/linux/init/GnsEngine.cpp). WSL adds them once at boot and never again.
//
//	ip filter WSLOUTPUT       counter meta mark set 0x00000001
//	ip nat    WSLPOSTROUTING  oif "eth0" udp sport 1-65535 meta mark != 0x00000001 counter masquerade to :60700-60999
//	                          the same for tcp
//
// and the same for ip6. The first overwrites the whole mark. The second puts
// what does not start in Linux itself, the containers' traffic, into the block
// of source ports that Windows knows.
func (b *Bench) addWSLChains() error {
	c, err := b.WSL.NFT()
	if err != nil {
		return fmt.Errorf("open nftables of WSL: %w", err)
	}
	mark := binaryutil.NativeEndian.PutUint32(1)
	accept := nftables.ChainPolicyAccept
	for _, family := range ipFamilies {
		filter := c.AddTable(&nftables.Table{Family: family, Name: "filter"})
		output := c.AddChain(&nftables.Chain{
			Name: wslOutput, Table: filter, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter, Policy: &accept,
		})
		addRules(c, output, [][]expr.Any{counter(), {
			&expr.Immediate{Register: 1, Data: mark},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
		}})

		nat := c.AddTable(&nftables.Table{Family: family, Name: "nat"})
		c.AddChain(&nftables.Chain{
			Name: wslPostrouting, Table: nat, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 1), Policy: &accept,
		})
		if err := c.Flush(); err != nil {
			return fmt.Errorf("add WSL's chains: %w", err)
		}
	}
	return b.masqueradeBy(eth0)
}

const (
	wslOutput      = "WSLOUTPUT"
	wslPostrouting = "WSLPOSTROUTING"
)

var ipFamilies = []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}

// masqueradeBy adds WSL's rules for an interface. It fails if WSL's chain is not
// there.
func (b *Bench) masqueradeBy(dev string) error {
	link, err := b.WSL.Net.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s of WSL: %w", dev, err)
	}
	for _, family := range ipFamilies {
		postrouting := &nftables.Chain{Name: wslPostrouting, Table: &nftables.Table{Family: family, Name: "nat"}}
		for _, proto := range []string{"udp", "tcp"} {
			rule := slices.Concat(
				match(expr.MetaKeyOIF, binaryutil.NativeEndian.PutUint32(uint32(link.Attrs().Index))),
				match(expr.MetaKeyL4PROTO, l4proto(proto)), matchPorts(sport, 1, 65535),
				matchNot(expr.MetaKeyMARK, binaryutil.NativeEndian.PutUint32(1)),
				counter(),
			)
			if err := b.WSL.addMasquerade(postrouting, rule, b.FirstPort, b.LastPort); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeWSLChains removes WSL's chains, those that there are.
func (b *Bench) removeWSLChains() error {
	c, err := b.WSL.NFT()
	if err != nil {
		return fmt.Errorf("open nftables of WSL: %w", err)
	}
	for _, family := range ipFamilies {
		chains, err := c.ListChainsOfTableFamily(family)
		if err != nil {
			return fmt.Errorf("list chains of WSL: %w", err)
		}
		for _, chain := range chains {
			if chain.Name == wslOutput || chain.Name == wslPostrouting {
				c.FlushChain(chain)
				c.DelChain(chain)
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove WSL's chains: %w", err)
	}
	return nil
}
