package nft

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A ForeignChain is a chain of somebody else's that is asked for by its name.
type ForeignChain struct {
	// Family is "ip" or "ip6", as nft writes it.
	Family, Table, Name string
	// Rules is how many rules it has; 0 also where there is no such chain.
	Rules int
}

// String is for people.
func (c ForeignChain) String() string { return c.Family + " " + c.Table + " " + c.Name }

// WSLChains are the chains that WSL adds at boot in the mirrored mode, and never
// again (src/linux/init/GnsEngine.cpp), with the number of rules that each has
// now.
func (r *Reader) WSLChains() ([]ForeignChain, error) {
	chains := []ForeignChain{
		{Family: "ip", Table: "filter", Name: "WSLOUTPUT"},
		{Family: "ip", Table: "nat", Name: "WSLPOSTROUTING"},
		{Family: "ip6", Table: "filter", Name: "WSLOUTPUT"},
		{Family: "ip6", Table: "nat", Name: "WSLPOSTROUTING"},
	}
	families := map[string]byte{"ip": unix.NFPROTO_IPV4, "ip6": unix.NFPROTO_IPV6}
	for i, c := range chains {
		// To a dump of what is not there the kernel answers with nothing.
		msgs, err := r.dump(unix.NFT_MSG_GETRULE, families[c.Family],
			netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: []byte(c.Table + "\x00")},
			netlink.Attribute{Type: unix.NFTA_RULE_CHAIN, Data: []byte(c.Name + "\x00")})
		if err != nil {
			return nil, fmt.Errorf("read chain %s: %w", c, err)
		}
		chains[i].Rules = len(msgs)
	}
	return chains, nil
}

// Passes reports whether an engine lets what comes by the link loopback to a port
// that it publishes pass to its proxy, as Docker 27.3 and later do if they find
// the link when they start, and whether there is such a port to tell by.
func (rs *Ruleset) Passes(loopback Iface) (passes, known bool) {
	translated := func(by Iface) Ports {
		var spans []span
		for _, o := range rs.walk(Packet{
			Hook: *nftables.ChainHookPrerouting, Iif: by, Src: localhost, Dst: localhost, Ports: AllPorts,
		}, onlyNAT).outcomes {
			if o.Fate == Translated {
				spans = append(spans, o.Ports...)
			}
		}
		return Ports(spans).normal()
	}
	others := translated(another)
	return !others.Empty() && others.Intersect(translated(loopback)).Empty(), !others.Empty()
}

// HasTable reports whether there is a table of that name in the family ip or
// inet.
func (rs *Ruleset) HasTable(name string) bool {
	for id := range rs.chains {
		if id.table.name == name {
			return true
		}
	}
	return false
}

// HasChain reports whether there is a chain of that name in a table of the
// family ip or inet.
func (rs *Ruleset) HasChain(name string) bool {
	for id := range rs.chains {
		if id.name == name {
			return true
		}
	}
	return false
}

// Guarded are the links that our table keeps from 127.0.0.0/8.
func (t Table) Guarded() (links []string) {
	for _, s := range t.Sets {
		if s.Name == guardedSet {
			for _, e := range s.Elements {
				links = append(links, unix.ByteSliceToString([]byte(e.Key)))
			}
		}
	}
	return links
}
