package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrOwned says that the table belongs to another process: another wslmirror,
// in this distribution or in another one of the same VM.
var ErrOwned = errors.New("table " + TableName + " is owned by another process")

// A Holder is the netlink socket that owns the table.
type Holder struct {
	conn   *nftables.Conn
	sock   *netlink.Conn // conn's
	portID uint32
}

// Open makes a Holder that holds nothing yet.
func Open() (*Holder, error) {
	conn, sock, err := dial()
	if err != nil {
		return nil, err
	}
	if err := enlarge(sock); err != nil {
		return nil, errors.Join(err, conn.CloseLasting())
	}
	return &Holder{conn: conn, sock: sock, portID: sock.PID()}, nil
}

// PortID is the netlink port ID that State.Owner has for a table of ours. It is
// unique in the network namespace, also among processes that cannot see one
// another.
func (h *Holder) PortID() uint32 { return h.portID }

// Install makes the kernel hold t, in one transaction: a packet sees the old
// table or the new one. Where only elements of sets differ, or chains come or go,
// only they change, and the counters go on; otherwise the whole table is replaced,
// as is one of our name that nobody owns. It returns ErrOwned if somebody else owns
// the table.
func (h *Holder) Install(t Table, old State) error {
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4, Flags: nftables.TableFlagOwner}
	if old.Owner == h.portID && t.sameBut(old.Table) {
		for i, s := range t.Sets {
			set := s.of(table)
			if err := h.elements(h.conn.SetDeleteElements, set, old.Table.Sets[i].minus(s)); err != nil {
				return err
			}
			if err := h.elements(h.conn.SetAddElements, set, s.minus(old.Table.Sets[i])); err != nil {
				return err
			}
		}
		for _, c := range old.Table.chainsBut(t) {
			h.conn.DelChain(&nftables.Chain{Table: table, Name: c.Name})
		}
		for _, c := range t.chainsBut(old.Table) {
			h.addChain(table, c)
		}
		return h.flush("change table")
	}
	if old.Present {
		h.conn.DelTable(table)
	}
	h.conn.AddTable(table)
	for _, s := range t.Sets {
		set := s.of(table)
		if err := h.conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("make set %s: %w", s.Name, err)
		}
		if err := h.elements(h.conn.SetAddElements, set, s.Elements); err != nil {
			return err
		}
	}
	for _, c := range t.Chains {
		h.addChain(table, c)
	}
	return h.flush("install table")
}

func (h *Holder) addChain(table *nftables.Table, c Chain) {
	policy := nftables.ChainPolicyAccept
	chain := h.conn.AddChain(&nftables.Chain{
		Table: table, Name: c.Name, Type: c.Type,
		Hooknum: &c.Hook, Priority: &c.Priority, Policy: &policy,
	})
	for _, r := range c.Rules {
		h.conn.AddRule(&nftables.Rule{
			Table: table, Chain: chain, Exprs: r.Exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, r.Comment),
		})
	}
}

// of is the set as the library has it.
func (s Set) of(table *nftables.Table) *nftables.Set {
	set := &nftables.Set{Table: table, Name: s.Name}
	if s.Kind == SetOfLinks {
		// Without its byte order, nft prints the names as empty.
		set.KeyType, set.KeyByteOrder = nftables.TypeIFName, binaryutil.NativeEndian
		return set
	}
	set.KeyType = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	set.Concatenation = true
	if s.Kind == MapOfTargets {
		set.IsMap = true
		set.DataType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	}
	return set
}

// elements adds elements to a set or deletes them from it.
func (h *Holder) elements(change func(*nftables.Set, []nftables.SetElement) error, set *nftables.Set, elements []Element) error {
	if len(elements) == 0 {
		return nil
	}
	var list []nftables.SetElement
	for _, e := range elements {
		list = append(list, nftables.SetElement{Key: []byte(e.Key), Val: []byte(e.Value)})
	}
	if err := change(set, list); err != nil {
		return fmt.Errorf("change set %s: %w", set.Name, err)
	}
	return nil
}

// Remove removes the table. The Holder can install it again.
func (h *Holder) Remove() error {
	h.conn.DelTable(&nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4})
	if err := h.flush("remove table"); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil // it is gone: nothing is left to do
}

// Close closes the socket; the kernel removes the table with it.
func (h *Holder) Close() error { return closed(h.conn.CloseLasting()) }

func (h *Holder) flush(what string) error {
	err := within(h.sock, h.conn.Flush)
	if errors.Is(err, unix.EPERM) {
		return ErrOwned
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, TableName, err)
	}
	return nil
}
