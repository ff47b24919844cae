package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// The errors that Check can return.
var (
	ErrPermission = errors.New("no permission to change nftables (CAP_NET_ADMIN)")
	ErrNoNFTables = errors.New("this kernel has no nf_tables")
	ErrNoOwner    = errors.New("this kernel's nf_tables has no table ownership (Linux 5.12)")
)

// TooOld returns ErrNoOwner if a kernel of that release (uname -r) has no table
// ownership. Callers without the rights that Check needs can use it.
func TooOld(release string) error {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n == 2 && (major < 5 || major == 5 && minor < 12) {
		return ErrNoOwner
	}
	return nil
}

// Check reports whether the kernel and the rights of this process allow what this
// package does. It returns one of the errors above if the cause is known. It leaves
// nothing behind.
func Check() error { return check() }

func check(opts ...nftables.ConnOption) error {
	conn, sock, err := dial(opts...)
	if err != nil {
		return missing(err, ErrNoNFTables)
	}
	// Closing waits for a grace period until the kernel has destroyed what the
	// transaction below removes. There is no need to wait.
	defer func() { go conn.CloseLasting() }()
	// For the first question the kernel may have to load nf_tables.
	err = within(sock, installTimeout, func() (err error) {
		_, err = conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
		return err
	})
	if err != nil {
		return missing(err, ErrNoNFTables)
	}
	// One transaction adds a table and removes it again, so nobody sees it.
	t := &nftables.Table{Name: TableName + "-check", Family: nftables.TableFamilyIPv4, Flags: nftables.TableFlagOwner}
	conn.AddTable(t)
	conn.DelTable(t)
	return missing(within(sock, installTimeout, conn.Flush), ErrNoOwner)
}

// missing translates the errors with which the kernel reports a missing feature (EINVAL
// from nfnetlink_rcv_msg, EOPNOTSUPP from nf_tables_newtable, EPROTONOSUPPORT from
// socket(2)). They would mean nothing to a user.
func missing(err, what error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return ErrPermission
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%w: %w", what, err)
	case err != nil:
		return fmt.Errorf("use nftables: %w", err)
	}
	return nil
}
