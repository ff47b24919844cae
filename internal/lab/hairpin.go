package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Windows and the LAN send packets back to Linux, and on to each other, as a router
// does: a rule of nftables marks the packet, and an ip rule for the mark names the table
// with its route. "dup to" and "fwd to" of the family netdev would do without routing,
// but no kernel of WSL has them, and that of 5.15 has no such family.
const (
	backMark, backTable     = 1, 129 // leaves through the link of addHairpin
	switchMark, switchTable = 2, 130 // leaves the LAN through the link to Windows
)

// route lets h forward what has a mark. What arrives on dev without one, and is for
// nobody, is dropped in silence, as by a host that does not forward.
//
// It must come before the ip rules of mirrored mode: of two rules of one preference the
// older comes first.
func route(h *Host, dev string) error {
	for key, value := range map[string]string{
		"ip_forward": "1", "conf/all/rp_filter": "0", "conf/default/rp_filter": "0",
		"conf/all/send_redirects": "0", "conf/default/send_redirects": "0",
	} {
		if err := h.Sysctl("ipv4/"+key, value); err != nil {
			return err
		}
	}
	if err := routeMark(h, backMark, backTable); err != nil {
		return err
	}
	return dropUnrouted(h, dev)
}

func routeMark(h *Host, mark uint32, table int) error {
	rule := netlink.NewRule()
	rule.Priority, rule.Mark, rule.Table = 0, mark, table
	return addRule(h, rule)
}

func dropUnrouted(h *Host, dev string) error {
	rule := netlink.NewRule()
	rule.Priority, rule.IifName, rule.Type = 32768, dev, unix.FR_ACT_BLACKHOLE
	return addRule(h, rule)
}

// leaveMarked has what a mark sends to a table leave h through dev, to that neighbour.
func leaveMarked(h *Host, dev string, addr netip.Addr, table int, neighbour net.HardwareAddr) error {
	link, err := h.Net.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", dev, h.Name, err)
	}
	index := link.Attrs().Index
	err = h.Net.NeighSet(&netlink.Neigh{
		LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: gateway.AsSlice(), HardwareAddr: neighbour,
	})
	if err != nil {
		return fmt.Errorf("set neighbour of %s of %s: %w", dev, h.Name, err)
	}
	err = h.Net.RouteReplace(&netlink.Route{
		LinkIndex: index, Dst: host(addr), Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Table: table,
	})
	if err != nil {
		return fmt.Errorf("set route of table %d to %s by %s of %s: %w", table, addr, dev, h.Name, err)
	}
	return nil
}

// addHairpin gives h a table with two chains, both new: ingress, which sees what
// arrives on dev, and to which the caller adds what is to be sent back, and hairpin,
// which marks it. Nothing is done before c.Flush.
func addHairpin(c *nftables.Conn, dev string) (ingress *nftables.Chain) {
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: mirrorTable}
	c.AddTable(table)
	c.DelTable(table)
	c.AddTable(table)
	hairpin := c.AddChain(&nftables.Chain{Name: hairpinChain, Table: table})
	addRules(c, hairpin, [][]expr.Any{counter(), setMark(backMark)})
	ingress = addIngress(c, table, 0)
	addRules(c, ingress, [][]expr.Any{matchNot(expr.MetaKeyIIFNAME, ifname(dev)), accept})
	return ingress
}

// addIngress adds a chain of what arrives, so many steps after those of addHairpin.
func addIngress(c *nftables.Conn, table *nftables.Table, later nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return c.AddChain(&nftables.Chain{
		Name: "ingress", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityRaw + later), Policy: &policy,
	})
}

var (
	gotoHairpin = []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: hairpinChain}}
	accept      = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
)

// setMark is "meta mark set MARK".
func setMark(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}
}
