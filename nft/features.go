package nft

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Features are the parts of a Spec that some kernels do not support. WSL's kernels
// before 6.6 have no conntrack timeouts. Later ones have nft_ct and nft_reject as
// modules. A custom kernel may lack any of them.
type Features struct {
	// Repair and Direct need nft_ct and nft_masq.
	Repair, Direct bool
	// Refuse needs nft_ct, nft_reject and conntrack timeouts
	// (CONFIG_NF_CONNTRACK_TIMEOUT).
	Refuse bool
	// ToWindows needs nft_ct.
	ToWindows bool
}

// ErrNoNAT says that the kernel supports no part of a Spec.
var ErrNoNAT = errors.New("this kernel's nf_tables has no NAT (nft_chain_nat, nft_nat)")

// spec returns a Spec that needs all chains of the features.
func (f Features) spec() Spec {
	s := Spec{Index: 1, Repair: f.Repair, Replies: f.Repair, Refuse: f.Refuse}
	if f.Direct {
		s.Direct = Targets{}
	}
	if f.ToWindows {
		s.ToWindows = &ToWindows{First: 1, Last: 1}
	}
	return s
}

// Lacking returns the features that the kernel does not support. The kernel may load
// modules to answer. If it lacks nothing, that takes one transaction.
func (o *TableOwner) Lacking() (lacking Features, err error) {
	all := Features{Repair: true, Direct: true, Refuse: true, ToWindows: true}
	if ok, err := o.takes(all); ok || err != nil {
		return Features{}, err
	}
	if ok, err := o.takes(Features{}); err != nil || !ok {
		return all, cmp.Or(err, ErrNoNAT)
	}
	for _, one := range []struct {
		feature Features
		lacks   *bool
	}{
		{Features{Repair: true}, &lacking.Repair}, {Features{Direct: true}, &lacking.Direct},
		{Features{Refuse: true}, &lacking.Refuse}, {Features{ToWindows: true}, &lacking.ToWindows},
	} {
		ok, err := o.takes(one.feature)
		if err != nil {
			return lacking, err
		}
		*one.lacks = !ok
	}
	return lacking, nil
}

// takes reports whether the kernel accepts a table with these features. It adds and
// removes the table in one transaction, so no packet meets its rules. Still, that is an
// event of the ruleset.
func (o *TableOwner) takes(f Features) (bool, error) {
	trial := &nftables.Table{Name: TableName + "-check", Family: nftables.TableFamilyIPv4, Flags: nftables.TableFlagOwner}
	if err := o.add(trial, f.spec().Table(), nil); err != nil {
		return false, err
	}
	o.conn.DelTable(trial)
	err := within(o.sock, installTimeout, o.conn.Flush)
	switch {
	case IsLacking(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("find out what the kernel has: %w", err)
	}
	return true, nil
}

// IsLacking reports whether the kernel has refused a table because it does not know
// something in it, such as an expression whose module is missing.
func IsLacking(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}
