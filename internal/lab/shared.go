package lab

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// In mirrored-hal Windows has the LAN address of WSL as well, and the two reach each
// other by it through eth0. So Windows has a link of its own to the LAN, whose end of
// eth0 is then a switch.
const (
	sharedNIC   = "Ethernet"
	sharedPort  = "windows" // the LAN's end of it
	sharedTable = "shared"
)

// connectShared gives Windows the address that it shares with WSL.
func (b *Bench) connectShared() error {
	if err := connect(b.Windows, sharedNIC, gatewayMAC, b.LAN, sharedPort, eth0MAC); err != nil {
		return err
	}
	port, err := b.LAN.Net.LinkByName(sharedPort)
	if err == nil {
		err = b.LAN.Net.LinkSetUp(port)
	}
	if err != nil {
		return fmt.Errorf("set up %s of the LAN: %w", sharedPort, err)
	}
	if err := routeMark(b.LAN, switchMark, switchTable); err != nil {
		return err
	}
	if err := leaveMarked(b.LAN, sharedPort, wslAddr.Addr(), switchTable, gatewayMAC); err != nil {
		return err
	}
	for h, dev := range map[*Host]string{b.LAN: sharedPort, b.Windows: sharedNIC} {
		if err := dropUnrouted(h, dev); err != nil {
			return err
		}
	}
	if err := addAddress(b.Windows, sharedNIC, single(wslAddr.Addr())); err != nil {
		return err
	}
	if err := mirror(b.Windows, sharedNIC, wslAddr.Addr(), localTable, eth0MAC); err != nil {
		return err
	}
	return localFirst(b.Windows, sharedNIC)
}

// addSharedChains has the LAN's end of eth0 hand to Windows what is for the shared
// address and not for a port of Linux, which is sent back as without this:
//
//	table ip shared {
//	  chain ingress {
//	    type filter hook prerouting priority raw + 1
//	    iifname "windows" ip daddr 192.0.2.2 meta mark set 1 accept
//	    iifname != "eth0" accept
//	    ip daddr 192.0.2.2 th dport 60700-60999 accept
//	    ip daddr 192.0.2.2 meta l4proto . th dport @linux accept
//	    ip daddr 192.0.2.2 meta mark set 2
//	  }
//	}
//
// In other modes there is no such address.
func (b *Bench) addSharedChains() (linuxPorts, error) {
	if b.mode != MirroredHAL {
		return linuxPorts{}, nil
	}
	c, err := b.LAN.NFT()
	if err != nil {
		return linuxPorts{}, fmt.Errorf("open nftables of the LAN: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: sharedTable}
	c.AddTable(table)
	c.DelTable(table)
	c.AddTable(table)
	toShared := matchAddr(daddr, expr.CmpOpEq, single(wslAddr.Addr()))
	ingress := addIngress(c, table, 1)
	addRules(c, ingress,
		[][]expr.Any{match(expr.MetaKeyIIFNAME, ifname(sharedPort)), toShared, setMark(backMark), accept},
		[][]expr.Any{matchNot(expr.MetaKeyIIFNAME, ifname(eth0)), accept})
	set, err := b.addOwnership(c, ingress, wslAddr.Addr(), accept)
	if err != nil {
		return linuxPorts{}, err
	}
	addRules(c, ingress, [][]expr.Any{toShared, setMark(switchMark)})
	if err := c.Flush(); err != nil {
		return linuxPorts{}, fmt.Errorf("add the chains of the shared address: %w", err)
	}
	return linuxPorts{c, set}, nil
}

// disconnectShared undoes connectShared and addSharedChains.
func (b *Bench) disconnectShared() error {
	if b.mode != MirroredHAL {
		return nil
	}
	b.owner.forgetShared()
	c, err := b.LAN.NFT()
	if err != nil {
		return fmt.Errorf("open nftables of the LAN: %w", err)
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: sharedTable})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the chains of the shared address: %w", err)
	}
	link, err := b.Windows.Net.LinkByName(sharedNIC)
	if err == nil {
		err = b.Windows.Net.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove %s of Windows: %w", sharedNIC, err)
	}
	return nil
}
