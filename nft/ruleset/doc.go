// Package ruleset reads the nftables rules that others wrote, and tells what they
// do to a packet.
//
// It follows packets of IPv4 through the tables of the families ip and inet, all
// ports at once. Rules that iptables wrote are among them, but for those of
// iptables-legacy, which nftables does not show.
//
// Beware of these:
//
//   - A Ruleset reads as it is walked, and is good only inside of Reader.Read, which
//     checks that the kernel's ruleset was the same all the time.
//   - What a walk does not understand, cannot read or finds too large to read is
//     "may": an Outcome that is not Sure.
package ruleset
