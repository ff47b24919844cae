package nft

import (
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// A Refusal is ports of which a chain drops what comes from Windows.
type Refusal struct {
	Ports Ports
	// Family is "ip" or "inet", as nft writes it.
	Family, Table, Chain string
}

// Refusals walks what comes by the link loopback, for 127.0.0.1, through the
// filters of what this machine takes in, and tells what is dropped for certain.
// The Reader must have read these (Input).
func (rs *Ruleset) Refusals(loopback Iface) (list []Refusal) {
	packet := Packet{Hook: *nftables.ChainHookInput, Iif: loopback, Src: localhost, Dst: localhost, Ports: AllPorts}
	for _, o := range rs.walk(packet, onlyFilter).outcomes {
		if o.Fate == Dropped && o.Sure {
			family := "inet"
			if o.at.table.family == unix.NFPROTO_IPV4 {
				family = "ip"
			}
			list = append(list, Refusal{o.Ports, family, o.Table, o.Chain})
		}
	}
	return list
}
