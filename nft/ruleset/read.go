package ruleset

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// readTries is how often a ruleset that changes meanwhile is read at most.
const readTries = 4

// A Reader reads rulesets. It keeps its sockets, because to open one takes as long
// as to read.
type Reader struct {
	conn *nlconn.Conn
	// bulk is for dumps that may be cut short, which closes the socket.
	bulk *nlconn.Conn
	own  string
}

// OpenReader opens a Reader in the network namespace of the calling thread. own
// names our own table, of the family ip, which a walk leaves out.
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

// Generation is a number that changes with every change of the kernel's ruleset,
// but one: the kernel removes a table without it when the owner's socket is closed.
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

// Read reads the ruleset and calls do with it, and returns which generation it
// was.
//
// A reading is several dumps, each of several parts. Of a ruleset that changes
// meanwhile one could see, say, new chains without their rules, and remove what is
// needed: so do is called again, with another reading, unless the ruleset changes
// all the time. Then the last call counts, until the next Read, which finds another
// generation.
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

// awaitCommit waits for the end of a transaction that is being carried out.
//
// The kernel counts the generation first and takes the old rules out of its lists
// afterwards (nf_tables_commit). A dump between the two, which goes on in its
// next part by the number of rules that it has passed, leaves out as many of the
// new ones, and nothing tells. An empty transaction has to wait for its turn, and
// changes nothing.
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

// Tables is what the kernel says of all tables, but for ours: another value means
// that tables have come or gone. Of one that goes with its owner the generation does
// not tell.
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

// Owner is the netlink port of the process that owns a table of the family ip, 0
// if none does, and whether there is such a table.
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

// Rules are the rules of a chain of the family ip or ip6, or of the whole table if
// chain is "", with what they have counted. There are none if there is no such chain.
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

// Counted is what the counters of a rule have counted.
func (r Rule) Counted() (packets, bytes uint64) {
	for _, e := range r.Exprs {
		if c, ok := e.(*expr.Counter); ok {
			packets += c.Packets
			bytes += c.Bytes
		}
	}
	return packets, bytes
}

// message is the type of a message of nf_tables.
func message(kind int) int { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }

// request is the body of one, without attributes: an nfgenmsg.
func request(family byte) []byte { return []byte{family, unix.NFNETLINK_V0, 0, 0} }

// ofSet is the request for elements of a set.
func ofSet(s setID) []byte {
	return nlconn.AppendText(nlconn.AppendText(request(s.table.family), unix.NFTA_SET_ELEM_LIST_TABLE, s.table.name), unix.NFTA_SET_ELEM_LIST_SET, s.name)
}

// The Reader as the kernel of a Ruleset.

func (r *Reader) all(kind int, family byte) (msgs [][]byte, err error) {
	err = r.conn.Each(message(kind), request(family), func(msg []byte) bool {
		msgs = append(msgs, slices.Clone(msg))
		return true
	})
	return msgs, changed(err)
}

// changed takes an interrupted dump for a whole one: that something has changed
// meanwhile shows in the generation.
func changed(err error) error {
	if errors.Is(err, nlconn.ErrInterrupted) {
		return nil
	}
	return err
}

// kept calls each with copies of messages, which outlive the dump.
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
		return nil // it was removed in between, which is another generation
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
