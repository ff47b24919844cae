package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// readTries is how often a ruleset that changes meanwhile is read at most.
const readTries = 4

// State is what the kernel holds under the name of our table.
type State struct {
	// Present says that there is such a table, whoever made it.
	Present bool
	// Owner is the netlink port ID of the socket that owns the table, 0 if none
	// does. See Holder.PortID.
	Owner uint32
	// Table is the content.
	Table Table
	// Packets and Bytes are what the rules of WSLPREROUTING have counted that send
	// a packet on. A nat chain sees only the first packet of each flow, so Packets
	// counts connections.
	Packets, Bytes uint64
}

// A Reader reads the ruleset. It keeps its socket, because to open one takes as
// long as to read, and what it has read, for as long as the kernel says that it
// is the same generation.
type Reader struct {
	// Forward has the rules for what is forwarded read as well, without which
	// the Obstacles of a View mean nothing. It is set before the first Read.
	Forward bool
	// Input has those read for what this machine takes in, for Refusals.
	Input bool

	conn *nftables.Conn
	sock *netlink.Conn // conn's

	dumps map[int]*nl.SocketHandle // see dump

	ruleset *Ruleset // the last; nil: none yet
	absent  bool     // our table was not there; it cannot come without another generation
}

// OpenReader opens the socket, in the network namespace of the calling thread.
func OpenReader() (*Reader, error) {
	conn, sock, err := dial()
	if err != nil {
		return nil, err
	}
	r := &Reader{conn: conn, sock: sock}
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink: %w", err), r.conn.CloseLasting())
	}
	r.dumps = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: s}}
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := errors.Join(s.SetSendTimeout(&timeout), s.SetReceiveTimeout(&timeout)); err != nil {
		return nil, errors.Join(fmt.Errorf("set the timeout of netlink: %w", err), r.Close())
	}
	return r, nil
}

// Close closes the sockets.
func (r *Reader) Close() error {
	for _, s := range r.dumps {
		s.Close()
	}
	return closed(r.conn.CloseLasting())
}

// Read reads our table, and the ruleset of the families ip and inet. The same
// *Ruleset comes again where nothing has changed. After an error the Reader
// should be closed, since a late answer may be in its socket.
func (r *Reader) Read() (s State, rs *Ruleset, err error) {
	err = within(r.sock, func() (err error) {
		s, rs, err = r.read()
		return err
	})
	return s, rs, err
}

func (r *Reader) read() (State, *Ruleset, error) {
	if err := r.readUnlessKnown(); err != nil {
		return State{}, nil, err
	}
	if r.absent {
		return State{}, r.ruleset, nil
	}
	s, err := r.readState()
	r.absent = err == nil && !s.Present
	return s, r.ruleset, err
}

// readUnlessKnown reads the ruleset if there is another generation of it.
//
// A reading is several dumps, each of several parts. Of a ruleset that changes
// meanwhile one could see, say, new chains without their rules, and take away
// what is needed: so it is read again, unless it changes all the time. Then the
// last reading counts, until the next one, which finds another generation.
func (r *Reader) readUnlessKnown() error {
	g, err := r.conn.GetGen()
	for try := 0; try < readTries && err == nil && (r.ruleset == nil || r.ruleset.generation != g.ID); try++ {
		if err := r.awaitCommit(); err != nil {
			return err
		}
		if g, err = r.conn.GetGen(); err != nil {
			break
		}
		rs, err := r.readRuleset()
		if err != nil {
			return err
		}
		rs.generation = g.ID
		r.ruleset, r.absent = rs, false
		if g, err = r.conn.GetGen(); err != nil {
			return fmt.Errorf("read generation: %w", err)
		}
	}
	if err != nil {
		return fmt.Errorf("read generation: %w", err)
	}
	return nil
}

// awaitCommit waits for the end of a transaction that is being carried out.
//
// The kernel counts the generation first and takes the old rules out of its lists
// afterwards (nf_tables_commit). A dump between the two, which goes on in its
// next part by the number of rules that it has passed, leaves out as many of the
// new ones, and nothing tells. An empty transaction has to wait for its turn, and
// changes nothing.
func (r *Reader) awaitCommit() error {
	var batch []netlink.Message
	for _, kind := range []netlink.HeaderType{unix.NFNL_MSG_BATCH_BEGIN, unix.NFNL_MSG_BATCH_END} {
		batch = append(batch, netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, unix.NFNL_SUBSYS_NFTABLES),
		})
	}
	// To send it is to have it done: there is no answer.
	if _, err := r.sock.SendMessages(batch); err != nil {
		return fmt.Errorf("wait for a change of nftables: %w", err)
	}
	return nil
}

// Forget makes the next Read read everything. The generation stays the same when
// the kernel removes a table because its owner has gone.
func (r *Reader) Forget() { r.ruleset = nil }

// readState reads what the generation does not tell: whose our table is, if it
// is there, and what its rules have counted.
func (r *Reader) readState() (s State, err error) {
	t, err := r.conn.ListTableOfFamily(TableName, nftables.TableFamilyIPv4)
	if errors.Is(err, unix.ENOENT) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read table %s: %w", TableName, err)
	}
	s.Present, s.Owner = true, t.Owner
	s.take(r.ruleset)
	msgs, err := r.dump(unix.NFT_MSG_GETRULE, unix.NFPROTO_IPV4,
		netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: []byte(TableName + "\x00")},
		netlink.Attribute{Type: unix.NFTA_RULE_CHAIN, Data: []byte(PreroutingChain + "\x00")})
	if err != nil {
		return s, fmt.Errorf("read counters: %w", err)
	}
	for _, m := range msgs {
		_, rule, err := decodeRule(m, nil)
		if err != nil {
			return s, fmt.Errorf("decode rule: %w", err)
		}
		for _, e := range rule.exprs {
			if c, ok := e.expr.(*expr.Counter); ok && (rule.comment == mirrored || rule.comment == pastProxy) {
				s.Packets += c.Packets
				s.Bytes += c.Bytes
			}
		}
	}
	return s, nil
}

// readRuleset reads the chains, rules and sets of all tables.
func (r *Reader) readRuleset() (*Ruleset, error) {
	m := messages{elements: r.elements, forward: r.Forward, input: r.Input}
	for _, family := range []byte{unix.NFPROTO_INET, unix.NFPROTO_IPV4} {
		for _, dump := range []struct {
			what string
			msg  uint16
			to   *[][]byte
		}{
			{"chains", unix.NFT_MSG_GETCHAIN, &m.chains},
			{"rules", unix.NFT_MSG_GETRULE, &m.rules},
			{"sets", unix.NFT_MSG_GETSET, &m.sets},
		} {
			msgs, err := r.dump(dump.msg, family)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", dump.what, err)
			}
			*dump.to = append(*dump.to, msgs...)
		}
	}
	return m.decode()
}

// elements reads the elements of a set.
func (r *Reader) elements(family byte, table, set string) ([][]byte, error) {
	msgs, err := r.dump(unix.NFT_MSG_GETSETELEM, family,
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: []byte(table + "\x00")},
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: []byte(set + "\x00")})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // it was removed in between, which is an event
	}
	return msgs, err
}

// dump asks for all objects of a kind. It has a socket of its own, which reads
// each message once; the other looks at its length first, again and again.
func (r *Reader) dump(msg uint16, family byte, attrs ...netlink.Attribute) ([][]byte, error) {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|int(msg), unix.NLM_F_DUMP)
	req.Sockets = r.dumps
	req.AddRawData(append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...))
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, nl.ErrDumpInterrupted) {
		return msgs, nil // it has changed meanwhile, which is an event
	}
	return msgs, err
}

// take takes the content of our table from the ruleset.
func (s *State) take(rs *Ruleset) {
	for id, set := range rs.sets {
		if id.table != ourTable {
			continue
		}
		out := Set{Name: id.name, Kind: set.content()}
		for _, e := range set.elements {
			out.Elements = append(out.Elements, Element{string(e.key), string(e.value)})
		}
		slices.SortFunc(out.Elements, Element.compare)
		s.Table.Sets = append(s.Table.Sets, out)
	}
	slices.SortFunc(s.Table.Sets, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range rs.base { // in the order of their priority, as in a Spec's
		if c.table != ourTable {
			continue
		}
		chain := Chain{Name: c.name, Type: c.kind, Hook: c.hook, Priority: c.priority}
		for _, r := range c.rules {
			chain.Rules = append(chain.Rules, r.content())
		}
		s.Table.Chains = append(s.Table.Chains, chain)
	}
}

// content is what the elements of a set of ours are.
func (s *set) content() SetKind {
	switch {
	case s.keyLen == unix.IFNAMSIZ:
		return SetOfLinks
	case s.isMap:
		return MapOfTargets
	}
	return SetOfPorts
}

// content is the rule without what it has counted.
func (r *rule) content() Rule {
	out := Rule{Comment: r.comment}
	for _, e := range r.exprs {
		if _, ok := e.expr.(*expr.Counter); ok {
			e.expr = &expr.Counter{}
		}
		out.Exprs = append(out.Exprs, e.expr)
	}
	return out
}
