package nft

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// readTimeout bounds one reading of the ruleset. It takes milliseconds; a
// kernel that needs longer is asked again later.
const readTimeout = 2 * time.Second

// State is what the kernel holds under the name of our table.
type State struct {
	// Present says that there is such a table, whoever made it.
	Present bool
	// Owner is the netlink port ID of the socket that owns the table, 0 if none
	// does. See Holder.PortID.
	Owner uint32
	// Table is the content.
	Table Table
	// Packets and Bytes are what the rule "mirrored" has counted. A nat chain
	// sees only the first packet of each flow, so Packets counts connections.
	Packets, Bytes uint64
}

// A Reader reads our table. It keeps its socket, because to open one takes as
// long as to read.
type Reader struct {
	conn *nftables.Conn
	sock *netlink.Conn // conn's
}

// OpenReader opens the socket, in the network namespace of the calling thread.
func OpenReader() (*Reader, error) {
	r := new(Reader)
	var err error
	r.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		r.sock = c
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return r, nil
}

// Close closes the socket.
func (r *Reader) Close() error { return r.conn.CloseLasting() }

// Read reads our table from the kernel. After an error the Reader should be
// closed, since a late answer may be in its socket.
func (r *Reader) Read() (State, error) {
	if err := r.sock.SetDeadline(time.Now().Add(readTimeout)); err != nil {
		return State{}, fmt.Errorf("set the deadline of netlink: %w", err)
	}
	t, err := r.conn.ListTableOfFamily(TableName, nftables.TableFamilyIPv4)
	if errors.Is(err, unix.ENOENT) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("read table %s: %w", TableName, err)
	}
	s := State{Present: true, Owner: t.Owner}
	chains, err := r.conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return State{}, fmt.Errorf("read chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name != TableName {
			continue
		}
		chain := Chain{Name: c.Name, Type: c.Type}
		if c.Hooknum != nil && c.Priority != nil {
			chain.Hook, chain.Priority = *c.Hooknum, *c.Priority
		}
		rules, err := r.conn.GetRules(t, c)
		if err != nil {
			return State{}, fmt.Errorf("read rules of chain %s: %w", c.Name, err)
		}
		for _, rule := range rules {
			chain.Rules = append(chain.Rules, s.rule(rule))
		}
		s.Table.Chains = append(s.Table.Chains, chain)
	}
	return s, nil
}

// rule takes what the rule has counted out of it.
func (s *State) rule(r *nftables.Rule) Rule {
	comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	for _, e := range r.Exprs {
		if c, ok := e.(*expr.Counter); ok {
			s.Packets += c.Packets
			s.Bytes += c.Bytes
			*c = expr.Counter{}
		}
	}
	return Rule{Comment: comment, Exprs: r.Exprs}
}
