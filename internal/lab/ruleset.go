package lab

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Ruleset is a host's tables of the families inet and ip as the kernel tells
// them by netlink: the data of each message of a dump, which begins with an
// nfgenmsg, without the netlink header. The kernel's order is kept.
type Ruleset struct {
	Tables [][]byte `json:"tables"`
	Chains [][]byte `json:"chains"`
	Rules  [][]byte `json:"rules"`
	Sets   [][]byte `json:"sets"`
	// Elements are those of each set, by "FAMILY/TABLE/SET" with FAMILY as nft
	// has it.
	Elements map[string][][]byte `json:"elements"`
}

// ReadRuleset reads the host's ruleset. Nobody should change it meanwhile.
func (h *Host) ReadRuleset() (rs *Ruleset, err error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(h.ns)})
	if err != nil {
		return nil, fmt.Errorf("open netlink of %s: %w", h.Name, err)
	}
	defer func() {
		if err = errors.Join(err, c.Close()); err != nil {
			rs, err = nil, fmt.Errorf("read ruleset of %s: %w", h.Name, err)
		}
	}()
	if err := c.SetDeadline(time.Now().Add(Scaled(30 * time.Second))); err != nil {
		return nil, err
	}
	rs = &Ruleset{Elements: map[string][][]byte{}}
	for _, family := range []struct {
		number byte
		name   string
	}{{unix.NFPROTO_INET, "inet"}, {unix.NFPROTO_IPV4, "ip"}} {
		var sets [][]byte
		for _, dump := range []struct {
			what uint16
			to   *[][]byte
		}{
			{unix.NFT_MSG_GETTABLE, &rs.Tables},
			{unix.NFT_MSG_GETCHAIN, &rs.Chains},
			{unix.NFT_MSG_GETRULE, &rs.Rules},
			{unix.NFT_MSG_GETSET, &sets},
		} {
			msgs, err := dumpNFT(c, dump.what, family.number, nil)
			if err != nil {
				return nil, err
			}
			*dump.to = append(*dump.to, msgs...)
		}
		for _, msg := range sets {
			table, set, err := setName(msg)
			if err != nil {
				return nil, err
			}
			of, err := netlink.MarshalAttributes([]netlink.Attribute{
				{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: []byte(table + "\x00")},
				{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: []byte(set + "\x00")},
			})
			if err != nil {
				return nil, err
			}
			key := strings.Join([]string{family.name, table, set}, "/")
			if rs.Elements[key], err = dumpNFT(c, unix.NFT_MSG_GETSETELEM, family.number, of); err != nil {
				return nil, err
			}
		}
		rs.Sets = append(rs.Sets, sets...)
	}
	return rs, nil
}

// dumpNFT returns the data of the messages that answer a dump of nf_tables.
func dumpNFT(c *netlink.Conn, what uint16, family byte, attrs []byte) ([][]byte, error) {
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | what),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	var data [][]byte
	for _, m := range msgs {
		data = append(data, m.Data)
	}
	return data, err
}

// setName returns the table and the name of a set.
func setName(msg []byte) (table, set string, err error) {
	const nfgenmsg = 4
	ad, err := netlink.NewAttributeDecoder(msg[nfgenmsg:])
	if err != nil {
		return "", "", err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_SET_TABLE:
			table = ad.String()
		case unix.NFTA_SET_NAME:
			set = ad.String()
		}
	}
	return table, set, ad.Err()
}

// ListRuleset returns the host's tables of the families inet and ip as nft
// lists them. It is the tree's nft, because only where iptables is installed
// does nft know what iptables writes.
func (h *Host) ListRuleset() (string, error) {
	tree, err := Tree()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, family := range []string{"inet", "ip"} {
		cmd := exec.Command("/usr/sbin/nft", "list", "ruleset", family)
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: tree}
		cmd.Dir = "/"
		cmd.Stdout, cmd.Stderr = &text, &text
		p, err := h.Start(cmd)
		if err != nil {
			return "", err
		}
		if err := p.Wait(); err != nil {
			return "", fmt.Errorf("list ruleset of %s: %w: %s", h.Name, err, text.String())
		}
	}
	return text.String(), nil
}
