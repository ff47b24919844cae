package nft

import (
	"encoding/binary"

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
	for _, r := range c.rules {
		registers := map[uint32][]byte{}
		for _, e := range r.exprs {
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
