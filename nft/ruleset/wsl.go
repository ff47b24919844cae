package ruleset

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// sourceChain is the chain in which WSL masquerades what containers send, to the
// source ports that it has reserved in Windows (src/linux/init/GnsEngine.cpp).
var sourceChain = chainID{tableID{unix.NFPROTO_IPV4, "nat"}, "WSLPOSTROUTING"}

// SourcePorts are the ports that WSL has reserved in Windows for the connections
// of Linux, both ends inclusive, as its own masquerade rules have them; zero
// where there is no such rule.
func (rs *Ruleset) SourcePorts() (first, last uint16) {
	c := rs.chains[sourceChain]
	if c == nil {
		return 0, 0
	}
	rules, _ := rs.rulesOf(c)
	for _, r := range rules {
		registers := map[uint32][]byte{}
		exprs, _ := r.all(rs.known)
		for _, e := range exprs {
			switch x := e.expr.(type) {
			case *expr.Immediate:
				registers[x.Register] = x.Data
			case *expr.Masq:
				low, high := registers[x.RegProtoMin], registers[x.RegProtoMax]
				if x.RegProtoMin == 0 || len(low) != 2 || len(high) != 2 {
					continue
				}
				first, last = binary.BigEndian.Uint16(low), binary.BigEndian.Uint16(high)
				if 0 < first && first <= last {
					return first, last
				}
			}
		}
	}
	return 0, 0
}

// A WSLChain is one of the chains that WSL adds at boot in the mirrored mode, and
// never again (src/linux/init/GnsEngine.cpp).
type WSLChain struct {
	// Family is "ip" or "ip6", as nft writes it.
	Family, Table, Name string
	// Rules is how many rules it has; 0 also where there is no such chain.
	Rules int
}

// String is for people.
func (c WSLChain) String() string { return fmt.Sprintf("%s %s %s", c.Family, c.Table, c.Name) }

// WSLChains are all of them, with the number of rules that each has now.
func (r *Reader) WSLChains() (list []WSLChain, err error) {
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		for _, c := range []WSLChain{{Table: "filter", Name: "WSLOUTPUT"}, {Table: "nat", Name: "WSLPOSTROUTING"}} {
			c.Family = "ip"
			if family == unix.NFPROTO_IPV6 {
				c.Family = "ip6"
			}
			rules, err := r.Rules(family, c.Table, c.Name)
			if err != nil {
				return nil, err
			}
			c.Rules = len(rules)
			list = append(list, c)
		}
	}
	return list, nil
}
