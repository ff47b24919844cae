// Package ruleset reads the nftables rules of other programs and tells what they do to
// a packet.
//
// It follows IPv4 packets through the tables of the families ip and inet, for all ports
// at once. This includes rules written by iptables, except iptables-legacy: nftables
// does not show its rules.
//
// Pitfalls:
//
//   - A Ruleset reads from the kernel while it is walked. It is valid only inside
//     Reader.Read, which checks that the kernel's ruleset did not change meanwhile.
//   - If a walk does not understand something, cannot read it or finds it too large to
//     read, the result is "may": an Outcome that is not Sure.
package ruleset
