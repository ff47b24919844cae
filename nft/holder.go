package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
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
	portID uint32
}

// Open makes a Holder that holds nothing yet.
func Open() (*Holder, error) {
	h := new(Holder)
	var err error
	h.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		h.portID = c.PID()
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return h, nil
}

// PortID is the netlink port ID that State.Owner has for a table of ours. It is
// unique in the network namespace, also among processes that cannot see one
// another.
func (h *Holder) PortID() uint32 { return h.portID }

// Replace puts t in the place of what is there, in one transaction: a packet
// sees the old table or the new one. A table of our name that nobody owns is
// replaced too. It returns ErrOwned if somebody else owns the table.
func (h *Holder) Replace(t Table, old State) error {
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4, Flags: nftables.TableFlagOwner}
	if old.Present {
		h.conn.DelTable(table)
	}
	h.conn.AddTable(table)
	for _, c := range t.Chains {
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
	return h.flush("install table")
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
func (h *Holder) Close() error { return h.conn.CloseLasting() }

func (h *Holder) flush(what string) error {
	err := h.conn.Flush()
	if errors.Is(err, unix.EPERM) {
		return ErrOwned
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, TableName, err)
	}
	return nil
}
