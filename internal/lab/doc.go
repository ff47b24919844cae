// Package lab is the bench: the network of WSL2's modes with a shared localhost
// ([Mode]), rebuilt in network namespaces, so that the fault and its cure can be seen
// on any Linux machine and without Windows.
//
//	LAN ── eth0 ─┐                      docker0 ── container
//	             │                      │
//	           ┌─┴──────────────────────┴─┐
//	           │           WSL            │
//	           └─────────┬────────────────┘
//	                     │ loopback0
//	                     │
//	                     │ vEthernet, 00:11:22:33:44:55
//	           ┌─────────┴────────────────┐
//	           │         Windows          │   returns to Linux what Linux owns
//	           └──────────────────────────┘
//
// With [MirroredHAL] Windows has the LAN address of WSL too, and reaches WSL by it
// through eth0: the LAN's end of eth0 hands to Windows what is Windows'.
//
// The container is that of [StandIn], which needs nothing but a kernel, or those
// of [Docker], the real one.
//
// The bench is trusted because it shows, with nothing of wslmirror running,
// what users report; its tests hold it to that (docs/bench.md). Where it is simpler than
// Windows: it has no IPv6 between the two, only one port number decides who
// owns a connection (not the address it was bound to), a Windows program cannot
// reach a Windows server on 127.0.0.1, and a datagram that must be split
// (above 1472 bytes) is not returned to Linux.
//
// Nothing in it has a name or a mount outside the process. The namespaces end
// with the process, however that ends, and the machine's own network is never
// touched. Production code must not import this package.
package lab
