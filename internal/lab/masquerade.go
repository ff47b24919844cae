package lab

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// addMasquerade appends a rule "PARTS masquerade to :FIRST-LAST" to a chain of
// the host that is there already.
//
// The library's expr.Masq cannot say that: it never sends the flag
// NF_NAT_RANGE_PROTO_SPECIFIED beside the ports (nft does), without which the
// kernel lists the ports and does not use them. So the message is put together
// here, of parts that the library encodes.
func (h *Host) addMasquerade(chain *nftables.Chain, parts []expr.Any, first, last uint16) error {
	family := byte(chain.Table.Family)
	parts = append(parts,
		&expr.Immediate{Register: 1, Data: be16(first)},
		&expr.Immediate{Register: 2, Data: be16(last)},
	)
	attrs := netlink.NewAttributeEncoder()
	attrs.ByteOrder = binary.BigEndian
	attrs.String(unix.NFTA_RULE_TABLE, chain.Table.Name)
	attrs.String(unix.NFTA_RULE_CHAIN, chain.Name)
	attrs.Nested(unix.NFTA_RULE_EXPRESSIONS, func(exprs *netlink.AttributeEncoder) error {
		for _, part := range parts {
			encoded, err := expr.Marshal(family, part)
			if err != nil {
				return err
			}
			exprs.Bytes(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, encoded)
		}
		exprs.Nested(unix.NFTA_LIST_ELEM, func(elem *netlink.AttributeEncoder) error {
			elem.String(unix.NFTA_EXPR_NAME, "masq")
			elem.Nested(unix.NFTA_EXPR_DATA, func(masq *netlink.AttributeEncoder) error {
				masq.Uint32(unix.NFTA_MASQ_FLAGS, unix.NF_NAT_RANGE_PROTO_SPECIFIED)
				masq.Uint32(unix.NFTA_MASQ_REG_PROTO_MIN, unix.NFT_REG_1)
				masq.Uint32(unix.NFTA_MASQ_REG_PROTO_MAX, unix.NFT_REG_2)
				return nil
			})
			return nil
		})
		return nil
	})
	rule, err := attrs.Encode()
	if err != nil {
		return fmt.Errorf("encode rule: %w", err)
	}

	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: h.NetNS()})
	if err != nil {
		return fmt.Errorf("open nftables of %s: %w", h.Name, err)
	}
	message := func(kind, flags int, family byte, subsystem uint16, attrs []byte) netlink.Message {
		// struct nfgenmsg: family, version, and what resource a batch is for.
		body := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, subsystem)
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | netlink.HeaderFlags(flags)},
			Data:   append(body, attrs...),
		}
	}
	_, err = c.SendMessages([]netlink.Message{
		message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND|unix.NLM_F_ACK, family, 0, rule),
		message(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil),
	})
	if err == nil {
		_, err = c.Receive()
	}
	if err = errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("add rule to %s of %s: %w", chain.Name, h.Name, err)
	}
	return nil
}
