// Package nft manages wslmirror's own nftables table, its rules in other programs'
// tables, and WSL's chains that it restores. It talks to the kernel through netlink and
// does not need the nft program.
//
// Pitfalls:
//
//   - A netlink socket owns the table ("flags owner", Linux 5.12). The kernel answers
//     EPERM to everybody else, and removes the table when the socket is closed, however
//     the process ends. So a TableOwner must live as long as the table should, and is
//     never used for reading.
//   - The kernel sends no event when it removes a table because its owner has gone
//     (nft_rcv_nl_event in net/netfilter/nf_tables_api.c).
//   - EPERM has two meanings: no CAP_NET_ADMIN, or a table that somebody else owns.
//     Check rules out the first.
//   - All sockets are opened in the network namespace of the calling thread.
package nft
