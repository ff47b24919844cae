package lab

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// KernelBefore reports whether this machine's kernel is older than that version.
func KernelBefore(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var has [2]int
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &has[0], &has[1])
	return has[0] < major || has[0] == major && has[1] < minor
}

// A part is something of the kernel that a bench needs.
type part struct {
	module, option string
	try            func(h *Host) error
}

// parts are those that kernels exist without. Each is tried in a host of its own.
var parts = []part{
	{"veth", "CONFIG_VETH", func(h *Host) error {
		return h.Net.LinkAdd(&netlink.Veth{LinkAttrs: linkAttrs("a"), PeerName: "b"})
	}},
	{"bridge", "CONFIG_BRIDGE", func(h *Host) error { return h.Net.LinkAdd(&netlink.Bridge{LinkAttrs: linkAttrs("c")}) }},
	{"nf_tables", "CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4", tryRule(nftables.ChainTypeFilter, counter())},
	{"nft_chain_nat", "CONFIG_NFT_NAT", tryRule(nftables.ChainTypeNAT, counter())},
	{"nft_masq", "CONFIG_NFT_MASQ", tryRule(nftables.ChainTypeNAT, []expr.Any{&expr.Masq{}})},
	{"xt_addrtype", "CONFIG_NETFILTER_XT_MATCH_ADDRTYPE, CONFIG_NFT_COMPAT", tryRule(nftables.ChainTypeNAT, matchLocal())},
}

func linkAttrs(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

// tryRule makes a chain of nat's hook postrouting with a rule.
func tryRule(kind nftables.ChainType, exprs []expr.Any) func(*Host) error {
	return func(h *Host) error {
		c, err := h.NFT()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "try"})
		chain := c.AddChain(&nftables.Chain{
			Name: "try", Table: table, Type: kind, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
		return c.Flush()
	}
}

// explain is what the kernel lacks, if a bench could not be built for want of it, or else
// err itself.
func explain(err error) error {
	if lacks := lacking(); lacks != nil {
		return lacks
	}
	return err
}

// lacking says in one line what of a bench's needs this kernel has not; it is nil if that
// is nothing, or cannot be found out.
func lacking() error {
	var names, modules []string
	for _, p := range parts {
		h, err := newHost("a trial")
		if err != nil {
			return nil
		}
		if p.try(h) != nil {
			names, modules = append(names, fmt.Sprintf("%s (%s)", p.module, p.option)), append(modules, p.module)
		}
		h.Close()
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("this kernel lacks what the bench needs: %s; try 'sudo modprobe -a %s'", strings.Join(names, ", "), strings.Join(modules, " "))
}
