// Package nft holds wslmirror's one nftables table, the rules of ours in the tables of
// others, and the chains of WSL's that are restored, by netlink, without the nft program.
//
// Beware of these:
//
//   - The table is owned by a netlink socket ("flags owner", Linux 5.12). To
//     everybody else the kernel answers EPERM, and when the socket is closed,
//     however the process ends, the table is gone. So a TableOwner must live as
//     long as the table should, and it is never used for reading.
//   - The kernel sends no event when it removes a table because its owner has
//     gone (nft_rcv_nl_event in net/netfilter/nf_tables_api.c).
//   - EPERM has two meanings: no CAP_NET_ADMIN, and somebody else's table.
//     Check tells the first; after it has passed, only the second is left.
//   - All sockets are opened in the network namespace of the calling thread.
package nft
