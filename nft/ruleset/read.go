package ruleset

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// readTries is the maximum number of times that a changing ruleset is read.
const readTries = 4

// A Reader reads rulesets. It keeps its sockets open, because opening one takes as long
// as reading.
type Reader struct {
	conn *nlconn.Conn
	// bulk is for dumps that may be cut short, which closes the socket.
	bulk *nlconn.Conn
	own  string
}

// OpenReader opens a Reader in the network namespace of the calling thread. own is the
// name of our own table, of family ip. Walks leave it out.
func OpenReader(own string) (*Reader, error) {
	conn, err := nlconn.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	bulk, err := nlconn.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Reader{conn, bulk, own}, nil
}

// Close closes the sockets.
func (r *Reader) Close() {
	r.conn.Close()
	r.bulk.Close()
}

// Generation returns a number that changes with every change of the kernel's ruleset,
// with one exception: it stays the same when the kernel removes a table because its
// owner has closed the socket.
func (r *Reader) Generation() (uint32, error) {
	answer, err := r.conn.Ask(message(unix.NFT_MSG_GETGEN), request(unix.AF_UNSPEC))
	if err != nil {
		return 0, fmt.Errorf("read the generation of nftables: %w", err)
	}
	var id uint32
	if _, err = nlconn.GenAttrs(answer, func(a *nlconn.Attr) {
		if a.Kind == unix.NFTA_GEN_ID {
			id = a.Uint32BE()
		}
	}); err != nil {
		return 0, fmt.Errorf("decode the generation of nftables: %w", err)
	}
	return id, nil
}

// Read reads the ruleset, calls do with it, and returns its generation.
//
// A reading consists of several dumps with several parts each. If the ruleset changes
// meanwhile, a reading could contain, say, new chains without their rules, and the
// caller might remove something that is needed. So Read then reads again and calls do
// again. If the ruleset keeps changing, it stops after readTries. The last call then
// counts until the next Read, which finds another generation.
func (r *Reader) Read(do func(*Ruleset) error) (generation uint32, err error) {
	after, err := r.Generation()
	for try := 0; try < readTries && err == nil && (try == 0 || after != generation); try++ {
		if err = r.awaitCommit(); err != nil {
			break
		}
		if generation, err = r.Generation(); err != nil {
			break
		}
		var rs *Ruleset
		if rs, err = read(r, r.own); err != nil {
			break
		}
		if err = errors.Join(do(rs), rs.failed); err != nil {
			break
		}
		after, err = r.Generation()
	}
	return generation, err
}

// awaitCommit waits for the end of a transaction that the kernel is committing.
//
// The kernel first counts the generation up and then removes the old rules from its
// lists (nf_tables_commit). A dump in between continues its next part at the number of
// rules that it has passed. It then skips as many of the new rules, without any sign of
// that. An empty transaction has to wait for its turn and changes nothing.
func (r *Reader) awaitCommit() error {
	var batch []byte
	for _, kind := range []uint16{unix.NFNL_MSG_BATCH_BEGIN, unix.NFNL_MSG_BATCH_END} {
		batch = append(batch, nlconn.Message(kind, unix.NLM_F_REQUEST, []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES})...)
	}
	if err := r.conn.Send(batch); err != nil {
		return fmt.Errorf("wait for a change of nftables: %w", err)
	}
	return nil
}

// Tables describes all tables except ours. Another value means that tables were added
// or removed. The generation does not show that for a table that is removed with its
// owner.
func (r *Reader) Tables() (string, error) {
	var all []byte
	for _, family := range families {
		msgs, err := r.tables(family)
		if err != nil {
			return "", fmt.Errorf("read tables: %w", err)
		}
		for _, m := range msgs {
			if t, owner, _, err := decodeTable(m); err == nil && t.name != r.own {
				all = fmt.Appendf(all, "%d %q %d\n", t.family, t.name, owner)
			}
		}
	}
	return string(all), nil
}

// Owner returns the netlink port ID of the socket that owns a table of family ip, 0 if
// there is none, and whether the table exists.
func (r *Reader) Owner(table string) (owner uint32, present bool, err error) {
	answer, err := r.conn.Ask(message(unix.NFT_MSG_GETTABLE), nlconn.AppendText(request(unix.NFPROTO_IPV4), unix.NFTA_TABLE_NAME, table))
	if errors.Is(err, unix.ENOENT) {
		return 0, false, nil
	}
	if err == nil {
		_, owner, _, err = decodeTable(answer)
	}
	if err != nil {
		return 0, false, fmt.Errorf("read table %s: %w", table, err)
	}
	return owner, true, nil
}

// Rules returns the rules of a chain of family ip or ip6, with their counters, or those
// of the whole table if chain is "". If the chain does not exist, there are none.
func (r *Reader) Rules(family byte, table, chain string) (list []Rule, err error) {
	which := nlconn.AppendText(request(family), unix.NFTA_RULE_TABLE, table)
	if chain != "" {
		which = nlconn.AppendText(which, unix.NFTA_RULE_CHAIN, chain)
	}
	msgs, err := r.conn.Dump(message(unix.NFT_MSG_GETRULE), which)
	if err != nil {
		return nil, fmt.Errorf("read the rules of table %s: %w", table, err)
	}
	for _, m := range msgs {
		id, rule, err := decodeRule(m)
		var exprs []namedExpr
		if err == nil {
			exprs, err = rule.all(nil)
		}
		if err != nil {
			return nil, fmt.Errorf("decode rule: %w", err)
		}
		out := Rule{Place: Place{id, rule.handle}, Comment: rule.comment}
		for _, e := range exprs {
			out.Exprs = append(out.Exprs, e.expr)
		}
		list = append(list, out)
	}
	return list, nil
}

// Counted returns the sums of a rule's counters.
func (r Rule) Counted() (packets, bytes uint64) {
	for _, e := range r.Exprs {
		if c, ok := e.(*expr.Counter); ok {
			packets += c.Packets
			bytes += c.Bytes
		}
	}
	return packets, bytes
}

// message returns the type of an nf_tables message.
func message(kind int) int { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }

// request returns the body of such a message without attributes: an nfgenmsg.
func request(family byte) []byte { return []byte{family, unix.NFNETLINK_V0, 0, 0} }

// ofSet returns a request for elements of a set.
func ofSet(s setID) []byte {
	return nlconn.AppendText(nlconn.AppendText(request(s.table.family), unix.NFTA_SET_ELEM_LIST_TABLE, s.table.name), unix.NFTA_SET_ELEM_LIST_SET, s.name)
}

// The methods with which a Reader is the kernel of a Ruleset.

func (r *Reader) all(kind int, family byte) (msgs [][]byte, err error) {
	err = r.conn.Each(message(kind), request(family), func(msg []byte) bool {
		msgs = append(msgs, slices.Clone(msg))
		return true
	})
	return msgs, changed(err)
}

// changed ignores that a dump was interrupted: the generation shows that something has
// changed.
func changed(err error) error {
	if errors.Is(err, nlconn.ErrInterrupted) {
		return nil
	}
	return err
}

// kept calls each with copies of the messages, which stay valid after the dump.
func kept(each func([]byte) bool) func([]byte) bool {
	return func(msg []byte) bool { return each(slices.Clone(msg)) }
}

func (r *Reader) tables(family byte) ([][]byte, error) { return r.all(unix.NFT_MSG_GETTABLE, family) }
func (r *Reader) chains(family byte) ([][]byte, error) { return r.all(unix.NFT_MSG_GETCHAIN, family) }
func (r *Reader) sets(family byte) ([][]byte, error)   { return r.all(unix.NFT_MSG_GETSET, family) }

func (r *Reader) rulesOf(t tableID, each func([]byte) bool) error {
	return changed(r.bulk.Each(message(unix.NFT_MSG_GETRULE), nlconn.AppendText(request(t.family), unix.NFTA_RULE_TABLE, t.name), kept(each)))
}

func (r *Reader) elementsOf(s setID, each func([]byte) bool) error {
	err := r.bulk.Each(message(unix.NFT_MSG_GETSETELEM), ofSet(s), kept(each))
	if errors.Is(err, unix.ENOENT) {
		return nil // it was just removed: that is another generation
	}
	return changed(err)
}

func (r *Reader) element(s setID, key []byte) (*element, error) {
	wanted := func(b []byte) []byte {
		if key == nil {
			return nlconn.Append(b, unix.NFTA_SET_ELEM_FLAGS, []byte{0, 0, 0, elemFlagAll})
		}
		return nlconn.AppendNested(b, unix.NFTA_SET_ELEM_KEY, func(b []byte) []byte { return nlconn.Append(b, unix.NFTA_DATA_VALUE, key) })
	}
	answer, err := r.conn.Ask(message(unix.NFT_MSG_GETSETELEM), nlconn.AppendNested(ofSet(s), unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(b []byte) []byte {
		return nlconn.AppendNested(b, unix.NFTA_LIST_ELEM, wanted)
	}))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	elements, err := appendElements(nil, answer)
	if err != nil || len(elements) == 0 {
		return nil, err
	}
	return &elements[0], nil
}
