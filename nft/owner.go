package nft

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// ErrOwned says that another process owns the table: another wslmirror, in this
// distribution or in another one of the same VM.
var ErrOwned = errors.New("table " + TableName + " is owned by another process")

// A TableOwner is the netlink socket that owns the table.
type TableOwner struct {
	conn   *nftables.Conn
	sock   *netlink.Conn // the socket of conn
	portID uint32
	// Serving, if not nil, returns the ports of 127.0.0.1 on which servers listen. It
	// is called when a table that refuses closed ports is created, because a new table
	// has not seen any port answer yet.
	Serving func() []uint16
}

// Open returns a TableOwner that owns no table yet.
func Open() (*TableOwner, error) {
	conn, sock, err := dial()
	if err != nil {
		return nil, err
	}
	if err := enlarge(sock); err != nil {
		return nil, errors.Join(err, conn.CloseLasting())
	}
	return &TableOwner{conn: conn, sock: sock, portID: sock.PID()}, nil
}

// PortID is the netlink port ID that OurTable.Owner reports for the table that o owns.
// It is unique in the network namespace, also among processes that cannot see one
// another.
func (o *TableOwner) PortID() uint32 { return o.portID }

// Install puts t into the kernel in one transaction: a packet sees either the old table
// or the new one. If only elements of sets or the presence of chains differ, Install
// changes only these and the counters go on. Otherwise it replaces the whole table. It
// also replaces a table with our name that nobody owns. It returns ErrOwned if somebody
// else owns the table.
func (o *TableOwner) Install(t Table, old OurTable) error {
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4, Flags: nftables.TableFlagOwner}
	if old.Owner == o.portID && t.sameBut(old.Table) {
		for i, s := range t.Sets {
			set := asSet(s, table)
			if err := o.elements(o.conn.SetDeleteElements, set, minus(old.Table.Sets[i], s)); err != nil {
				return err
			}
			if err := o.elements(o.conn.SetAddElements, set, minus(s, old.Table.Sets[i])); err != nil {
				return err
			}
		}
		for _, c := range old.Table.chainsBut(t) {
			o.conn.DelChain(&nftables.Chain{Table: table, Name: c.Name})
		}
		for _, c := range t.chainsBut(old.Table) {
			o.addChain(table, c)
		}
		return o.flush("change table", answerTimeout)
	}
	if old.Present {
		o.conn.DelTable(table)
	}
	if err := o.add(table, t, o.Serving); err != nil {
		return err
	}
	if old.Owner == o.portID {
		return o.flush("replace table", answerTimeout)
	}
	return o.flush("install table", installTimeout)
}

// add adds a table with everything in it.
func (o *TableOwner) add(table *nftables.Table, t Table, serving func() []uint16) error {
	o.conn.AddTable(table)
	for _, s := range t.Sets {
		set := asSet(s, table)
		if err := o.conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("make set %s: %w", s.Name, err)
		}
		elements := s.Elements
		if s.Name == answeredSet && serving != nil {
			for _, port := range serving() {
				elements = append(elements, ruleset.Element{Key: string([]byte{byte(port >> 8), byte(port)})})
			}
		}
		if err := o.elements(o.conn.SetAddElements, set, elements); err != nil {
			return err
		}
		if s.Name == askedSet {
			policy := forgetSYN
			o.conn.AddObj(&nftables.NamedObj{Table: table, Name: askedTimeout, Type: nftables.ObjTypeCtTimeout, Obj: &policy})
		}
	}
	for _, c := range t.Chains {
		o.addChain(table, c)
	}
	return nil
}

func (o *TableOwner) addChain(table *nftables.Table, c ruleset.Chain) {
	policy := nftables.ChainPolicyAccept
	chain := o.conn.AddChain(&nftables.Chain{
		Table: table, Name: c.Name, Type: c.Type,
		Hooknum: &c.Hook, Priority: &c.Priority, Policy: &policy,
	})
	for _, r := range c.Rules {
		o.conn.AddRule(&nftables.Rule{
			Table: table, Chain: chain, Exprs: r.Exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, r.Comment),
		})
	}
}

// keyTypes are the key types of our sets, for concatenations in the order of their
// fields.
var keyTypes = map[string][]nftables.SetDatatype{
	addressesSet:  {nftables.TypeIPAddr},
	answeredSet:   {nftables.TypeInetService},
	askedSet:      {nftables.TypeIPAddr, nftables.TypeInetService, nftables.TypeInetService},
	containersSet: {nftables.TypeIFName},
	directMap:     {nftables.TypeInetProto, nftables.TypeInetService},
	exceptSet:     {nftables.TypeInetProto, nftables.TypeInetService},
	guardedSet:    {nftables.TypeIFName},
	ownSet:        {nftables.TypeIPAddr},
	servedSet:     {nftables.TypeInetProto, nftables.TypeInetService},
	windowsSet:    {nftables.TypeInetProto, nftables.TypeInetService},
}

func keyType(set string) nftables.SetDatatype {
	types := keyTypes[set]
	if len(types) == 1 {
		return types[0]
	}
	return nftables.MustConcatSetType(types...)
}

// lifetimes say how long an element stays in a dynamic set.
var lifetimes = map[string]time.Duration{
	// A port that has answered counts as open while its program restarts, even if that
	// takes long.
	answeredSet: time.Hour,
	// The kernel repeats a SYN one second and three seconds after the first. A later
	// SYN is from another client.
	askedSet: 3500 * time.Millisecond,
}

// mostElements is the maximum size of such a set: there are as many ports. When a set
// is full, nobody is refused.
const mostElements = 1 << 16

// asSet converts a set to the library's type.
func asSet(s ruleset.Set, table *nftables.Table) *nftables.Set {
	set := &nftables.Set{
		Table: table, Name: s.Name, KeyType: keyType(s.Name), Concatenation: len(keyTypes[s.Name]) > 1,
		Interval: s.Interval, IsMap: s.Map,
	}
	if s.KeyLen == unix.IFNAMSIZ {
		set.KeyByteOrder = binaryutil.NativeEndian // without it, nft prints the names as empty
	}
	if s.Map {
		set.DataType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	}
	if s.Dynamic {
		set.Dynamic, set.HasTimeout, set.Timeout, set.Size = true, true, lifetimes[s.Name], mostElements
	}
	return set
}

// elements adds elements to a set or deletes them from it.
func (o *TableOwner) elements(change func(*nftables.Set, []nftables.SetElement) error, set *nftables.Set, elements []ruleset.Element) error {
	if len(elements) == 0 {
		return nil
	}
	var list []nftables.SetElement
	for _, e := range elements {
		list = append(list, nftables.SetElement{Key: []byte(e.Key), KeyEnd: []byte(e.KeyEnd), Val: []byte(e.Value)})
	}
	if err := change(set, list); err != nil {
		return fmt.Errorf("change set %s: %w", set.Name, err)
	}
	return nil
}

// Remove removes the table. The TableOwner can install it again.
func (o *TableOwner) Remove() error {
	o.conn.DelTable(&nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4})
	if err := o.flush("remove table", answerTimeout); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil // a missing table is not an error
}

// Close closes the socket, and with it the kernel removes the table.
func (o *TableOwner) Close() error { return closed(o.conn.CloseLasting()) }

func (o *TableOwner) flush(what string, limit time.Duration) error {
	err := within(o.sock, limit, o.conn.Flush)
	if errors.Is(err, unix.EPERM) {
		return ErrOwned
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, TableName, err)
	}
	return nil
}
