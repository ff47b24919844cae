package doctor

import (
	"net/netip"
	"strings"
)

// addresses replaces the public addresses in text.
func (r *Redactor) addresses(text string, by func(netip.Addr) string) string {
	var out strings.Builder
	for i := 0; i < len(text); {
		// A run of what addresses are made of, with the dash for names such as
		// host-8-8-8-8.
		end := i
		for end < len(text) && isAddressByte(text[end]) {
			end++
		}
		if end == i {
			out.WriteByte(text[i])
			i++
			continue
		}
		r.run(&out, text[i:end], by)
		i = end
	}
	return out.String()
}

func isAddressByte(c byte) bool {
	return isHex(c) || c == ':' || c == '.' || c == '-'
}

func isHex(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// run replaces what is an address in a run, wherever in it. The longest that
// begins at a place counts, and no number is cut in two.
func (r *Redactor) run(out *strings.Builder, s string, by func(netip.Addr) string) {
	// An address has at most 45 characters (of IPv6 with one of IPv4 at its end).
	const longest = 45
	if !strings.ContainsAny(s, ":.-") {
		out.WriteString(s)
		return
	}
	inNumber := func(i int) bool { return i > 0 && i < len(s) && isDigit(s[i-1]) && isDigit(s[i]) }
	for i := 0; i < len(s); {
		found := s[i : i+1]
		for end := min(len(s), i+longest); end > i+1 && (isHex(s[i]) || s[i] == ':') && !inNumber(i); end-- {
			if inNumber(end) {
				continue
			}
			if a, ok := parse(s[i:end]); ok {
				if a.Is4() && !strings.Contains(s[i:end], ":") {
					a, end = widest(s, i, a, end)
				}
				found = s[i:end]
				if public(a) && !r.kept[a] {
					found = by(a)
				}
				i = end - 1
				break
			}
		}
		out.WriteString(found)
		i++
	}
}

// widest is for more than four numbers in a row, as in host-10-8-8-8-8: nobody
// knows which four are meant, so if any are public, they stand for all.
func widest(s string, start int, a netip.Addr, end int) (netip.Addr, int) {
	separator := byte('.')
	if !strings.Contains(s[start:end], ".") {
		separator = '-'
	}
	last := end
	for last+1 < len(s) && s[last] == separator && isDigit(s[last+1]) {
		for last++; last < len(s) && isDigit(s[last]); {
			last++
		}
	}
	groups := strings.Split(s[start:last], string(separator))
	for i := 0; i+4 <= len(groups); i++ {
		b, ok := parseIPv4(strings.Join(groups[i:i+4], "."))
		if len(groups) > 4 && ok && public(b) {
			return b, last
		}
	}
	return a, last
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// parse parses an address of either kind.
func parse(s string) (netip.Addr, bool) {
	if strings.Count(s, ":") >= 2 {
		a, err := netip.ParseAddr(s)
		return a, err == nil
	}
	if len(s) > len("255.255.255.255") {
		return netip.Addr{}, false
	}
	return parseIPv4(s)
}

// parseIPv4 parses four numbers with points, or with dashes, between them. They
// may have zeroes in front, which netip does not take.
func parseIPv4(s string) (netip.Addr, bool) {
	separator := "."
	if !strings.Contains(s, separator) {
		separator = "-"
	}
	groups := strings.Split(s, separator)
	var b [4]byte
	if len(groups) != len(b) {
		return netip.Addr{}, false
	}
	for i, g := range groups {
		if g == "" || len(g) > 3 {
			return netip.Addr{}, false
		}
		n := 0
		for _, c := range []byte(g) {
			if !isDigit(c) {
				return netip.Addr{}, false
			}
			n = 10*n + int(c-'0')
		}
		if n > 255 {
			return netip.Addr{}, false
		}
		b[i] = byte(n)
	}
	return netip.AddrFrom4(b), true
}

// special are addresses that nobody has to himself: shared ones, those for
// documentation and benchmarks, reserved ones and masks. What netip tells is not
// among them.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("3fff::/20"),
}

var (
	globalIPv6 = netip.MustParsePrefix("2000::/3") // all that is allotted
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	compatible = netip.MustParsePrefix("::/96")
)

// public reports whether an address leads to somebody.
func public(a netip.Addr) bool {
	a = a.WithZone("").Unmap()
	if nat64.Contains(a) || compatible.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	if a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return a.Is4() || globalIPv6.Contains(a)
}
