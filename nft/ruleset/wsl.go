package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// sourceChain is the chain in which WSL masquerades packets from containers, to the
// source ports that it has reserved in Windows (src/linux/init/GnsEngine.cpp).
var sourceChain = chainID{tableID{unix.NFPROTO_IPV4, "nat"}, "WSLPOSTROUTING"}

// SourcePorts returns the range of ports, inclusive, that WSL has reserved in Windows
// for connections from Linux. It reads them from WSL's own masquerade rules. It returns
// zeros if there is no such rule.
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

// A WSLChain is one of the chains that WSL adds in mirrored mode. It adds them at boot
// only (src/linux/init/GnsEngine.cpp).
type WSLChain struct {
	// Family is "ip" or "ip6", as nft writes it.
	Family, Table, Name string
	// The current content, with zero counters. Empty if the chain does not exist.
	Present  bool
	Type     nftables.ChainType
	Hook     nftables.ChainHook
	Priority nftables.ChainPriority
	Rules    []Rule
}

// String describes the chain for people.
func (c WSLChain) String() string { return fmt.Sprintf("%s %s %s", c.Family, c.Table, c.Name) }

// WSLChains returns all of WSL's chains, including missing ones.
func (r *Reader) WSLChains() (list []WSLChain, err error) {
	for _, in := range []struct {
		family byte
		name   string
	}{{unix.NFPROTO_IPV4, "ip"}, {unix.NFPROTO_IPV6, "ip6"}} {
		for _, c := range []WSLChain{{Table: "filter", Name: "WSLOUTPUT"}, {Table: "nat", Name: "WSLPOSTROUTING"}} {
			c.Family = in.name
			if err := r.readChain(in.family, &c); err != nil {
				return nil, fmt.Errorf("read chain %s: %w", c, err)
			}
			list = append(list, c)
		}
	}
	return list, nil
}

// readChain fills in the current content of a chain.
func (r *Reader) readChain(family byte, c *WSLChain) error {
	answer, err := r.conn.Ask(message(unix.NFT_MSG_GETCHAIN), nlconn.AppendText(
		nlconn.AppendText(request(family), unix.NFTA_CHAIN_TABLE, c.Table), unix.NFTA_CHAIN_NAME, c.Name))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	is, err := decodeChain(answer)
	if err != nil {
		return err
	}
	c.Present, c.Type, c.Hook, c.Priority = true, is.kind, is.hook, is.priority
	if c.Rules, err = r.Rules(family, c.Table, c.Name); err != nil {
		return err
	}
	for _, rule := range c.Rules {
		for i, e := range rule.Exprs {
			if _, ok := e.(*expr.Counter); ok {
				rule.Exprs[i] = &expr.Counter{}
			}
		}
	}
	return nil
}
