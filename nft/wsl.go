package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// RestoredComment is the comment on rules of WSL that we have restored.
const RestoredComment = "restored by wslmirror"

// RestoreChains adds WSL's chains again, and their tables if these are missing, in one
// transaction. It returns ErrChanged if the ruleset's generation has changed: somebody
// else may have restored them.
//
// The messages are built here because the library cannot express "masquerade to ports".
// It leaves out a flag, and without it the kernel lists the ports but does not use
// them. Then Windows would drop what containers send.
func RestoreChains(chains []ruleset.WSLChain, generation uint32) error {
	if len(chains) == 0 {
		return nil
	}
	// struct nfgenmsg ends with the subsystem of the batch.
	batch := func(kind int, attrs []byte) netlink.Message {
		return nfMessage(kind, 0, append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}, attrs...))
	}
	msgs := []netlink.Message{batch(unix.NFNL_MSG_BATCH_BEGIN, nlconn.AppendUint32BE(nil, unix.NFNL_BATCH_GENID, generation))}
	for _, w := range chains {
		of, err := asMessages(w)
		if err != nil {
			return fmt.Errorf("restore %s: %w", w, err)
		}
		msgs = append(msgs, of...)
	}
	msgs[len(msgs)-1].Header.Flags |= netlink.Acknowledge // errors are reported in any case
	msgs = append(msgs, batch(unix.NFNL_MSG_BATCH_END, nil))
	conn, sock, err := dial()
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	err = within(sock, answerTimeout, func() error {
		if _, err := sock.SendMessages(msgs); err != nil {
			return err
		}
		_, err := sock.Receive()
		return err
	})
	if errors.Is(err, unix.ERESTART) {
		return ErrChanged
	}
	if err != nil {
		return fmt.Errorf("restore WSL's chains: %w", err)
	}
	return nil
}

func nfMessage(kind int, flags netlink.HeaderFlags, data []byte) netlink.Message {
	return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags}, Data: data}
}

// asMessages encodes a chain: its table, the chain and its rules.
func asMessages(w ruleset.WSLChain) (msgs []netlink.Message, err error) {
	family := byte(unix.NFPROTO_IPV4)
	if w.Family == "ip6" {
		family = unix.NFPROTO_IPV6
	}
	add := func(kind int, attrs []byte) {
		msgs = append(msgs, nfMessage(unix.NFNL_SUBSYS_NFTABLES<<8|kind, netlink.Create|netlink.Append,
			append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...)))
	}
	add(unix.NFT_MSG_NEWTABLE, nlconn.AppendText(nil, unix.NFTA_TABLE_NAME, w.Table))
	chain := nlconn.AppendText(nlconn.AppendText(nil, unix.NFTA_CHAIN_TABLE, w.Table), unix.NFTA_CHAIN_NAME, w.Name)
	chain = nlconn.AppendText(chain, unix.NFTA_CHAIN_TYPE, string(w.Type))
	add(unix.NFT_MSG_NEWCHAIN, nlconn.AppendNested(chain, unix.NFTA_CHAIN_HOOK, func(b []byte) []byte {
		return nlconn.AppendUint32BE(nlconn.AppendUint32BE(b, unix.NFTA_HOOK_HOOKNUM, uint32(w.Hook)), unix.NFTA_HOOK_PRIORITY, uint32(w.Priority))
	}))
	for _, r := range w.Rules {
		rule := nlconn.AppendText(nlconn.AppendText(nil, unix.NFTA_RULE_TABLE, w.Table), unix.NFTA_RULE_CHAIN, w.Name)
		rule = nlconn.AppendNested(rule, unix.NFTA_RULE_EXPRESSIONS, func(b []byte) []byte {
			for _, e := range r.Exprs {
				encoded, encodeErr := asExpr(family, e)
				err = errors.Join(err, encodeErr)
				b = nlconn.Append(b, unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, encoded)
			}
			return b
		})
		add(unix.NFT_MSG_NEWRULE, nlconn.Append(rule, unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, RestoredComment)))
	}
	return msgs, err
}

// asExpr encodes an expression.
func asExpr(family byte, e expr.Any) ([]byte, error) {
	masq, ok := e.(*expr.Masq)
	if !ok || !masq.ToPorts {
		return expr.Marshal(family, e)
	}
	return nlconn.AppendNested(nlconn.AppendText(nil, unix.NFTA_EXPR_NAME, "masq"), unix.NFTA_EXPR_DATA, func(b []byte) []byte {
		b = nlconn.AppendUint32BE(b, unix.NFTA_MASQ_FLAGS, unix.NF_NAT_RANGE_PROTO_SPECIFIED)
		b = nlconn.AppendUint32BE(b, unix.NFTA_MASQ_REG_PROTO_MIN, masq.RegProtoMin)
		return nlconn.AppendUint32BE(b, unix.NFTA_MASQ_REG_PROTO_MAX, masq.RegProtoMax)
	}), nil
}

// Restorable reports whether c is complete, as WSL creates it, so that it can be
// restored later. A chain without rules was flushed, or WSL has not finished it.
func Restorable(c ruleset.WSLChain) bool {
	return len(c.Rules) > 0 && !slices.ContainsFunc(c.Rules, func(r ruleset.Rule) bool { return slices.Contains(r.Exprs, nil) })
}

// Relink returns c with its rules adapted to the current links. A rule of WSL names a
// link by its index, which changes when the link is removed and added again. was maps
// indexes to names at the time c was read, is maps names to current indexes. A rule
// whose link does not exist is left out.
func Relink(c ruleset.WSLChain, was map[int]string, is map[string]int) ruleset.WSLChain {
	var rules []ruleset.Rule
	for _, r := range c.Rules {
		r.Exprs = slices.Clone(r.Exprs)
		gone := false
		for i := 1; i < len(r.Exprs); i++ {
			m, ok1 := r.Exprs[i-1].(*expr.Meta)
			e, ok2 := r.Exprs[i].(*expr.Cmp)
			if !ok1 || !ok2 || m.Key != expr.MetaKeyOIF || len(e.Data) != 4 {
				continue
			}
			index, there := is[was[int(binary.NativeEndian.Uint32(e.Data))]]
			moved := *e
			moved.Data = word(uint32(index))
			r.Exprs[i], gone = &moved, !there
		}
		if !gone {
			rules = append(rules, r)
		}
	}
	c.Rules = rules
	return c
}
