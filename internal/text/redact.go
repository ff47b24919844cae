package text

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// A Redactor replaces private data in a text that will be published: names of users (of
// Linux and Windows, including full names) and of hosts, public IPv4 and IPv6
// addresses, and MAC addresses of hardware. The same item always gets the same
// replacement, so that a reader can tell them apart.
//
// It keeps what identifies nobody and helps to find the fault: private, shared,
// link-local, loopback, multicast and documentation addresses.
//
// When in doubt it replaces: what looks like an address is treated as one.
type Redactor struct {
	kinds map[string]string // "user" or "host", by the name in lower case
	kept  map[netip.Addr]bool
	seen  map[string]string // the replacements, by kind and original
	count map[string]int
}

// ordinary are names that identify nobody. Replacing them would make the text hard to
// read.
var ordinary = strings.Split("root,nobody,user,admin,localhost,localdomain,linux,windows,wsl,wslmirror,"+
	"ubuntu,debian,fedora,docker,podman,public,default,default user,all users", ",")

// NewRedactor returns a Redactor that knows no names yet.
func NewRedactor() *Redactor {
	return &Redactor{kinds: map[string]string{}, kept: map[netip.Addr]bool{}, seen: map[string]string{}, count: map[string]int{}}
}

// Add adds names of a kind, "user" or "host". Single letters are replaced only in
// paths.
func (r *Redactor) Add(kind string, words ...string) {
	for _, w := range words {
		w = strings.ToLower(strings.TrimSpace(w))
		if len([]rune(w)) > 1 && !slices.Contains(ordinary, w) && strings.ContainsFunc(w, unicode.IsLetter) && r.kinds[w] == "" {
			r.kinds[w] = kind
		}
	}
}

// Keep keeps everything in text that looks like an address but is not one: versions
// such as 2.9.4.0.
func (r *Redactor) Keep(text string) {
	addresses(text, func(a netip.Addr) string {
		r.kept[a] = true
		return ""
	})
}

// Redact replaces the private data in text.
func (r *Redactor) Redact(text string) string {
	text = homes.ReplaceAllStringFunc(text, func(s string) string {
		m := homes.FindStringSubmatch(s)
		name := cmp.Or(m[2], m[4], m[6])
		if lower := strings.ToLower(name); !slices.Contains(ordinary, lower) {
			return strings.Replace(s, name, r.alias("user", lower), 1)
		}
		return s
	})
	var out strings.Builder
	for names := r.pattern(); len(r.kinds) > 0; {
		m := names.FindStringSubmatchIndex(text)
		if m == nil {
			break
		}
		name := strings.ToLower(text[m[2]:m[3]])
		out.WriteString(text[:m[2]] + r.alias(r.kinds[name], name))
		text = text[m[3]:] // keep the character after the name: it may precede another name
	}
	text = macs.ReplaceAllStringFunc(out.String()+text, func(mac string) string {
		first, _ := strconv.ParseUint(mac[:2], 16, 8)
		const local = 2 // locally administered, as for containers
		if lower := strings.ToLower(mac); first&local == 0 && !slices.ContainsFunc(wsl, func(own string) bool { return strings.HasPrefix(lower, own) }) {
			return r.alias("mac", lower)
		}
		return mac
	})
	return addresses(text, func(a netip.Addr) string {
		if r.kept[a] || !public(a) {
			return ""
		}
		return r.alias("address", a.String())
	})
}

// pattern matches a name as a whole word.
func (r *Redactor) pattern() *regexp.Regexp {
	var all []string
	for w := range r.kinds {
		all = append(all, regexp.QuoteMeta(w))
	}
	// The longest first: a full name before its first word.
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	return regexp.MustCompile(`(?i)(?:^|[^\pL\pN])(` + strings.Join(all, "|") + `)(?:$|[^\pL\pN])`)
}

// alias returns the replacement for a private item.
func (r *Redactor) alias(kind, of string) string {
	key := kind + " " + of
	if r.seen[key] == "" {
		r.count[kind]++
		r.seen[key] = fmt.Sprintf("<%s-%d>", kind, r.count[kind])
	}
	return r.seen[key]
}

var (
	// homes matches home folders, including those of unknown users. In JSON the
	// backslashes of Windows paths are doubled. A Windows name may contain spaces if a
	// separator follows.
	homes = regexp.MustCompile(`(?i)(/home/)([^/\\"':;|<>\n\t ,)]+)|` +
		`((?:/|\\{1,2})users(?:/|\\{1,2}))([^/\\"':;|<>\n\t]{1,64})[/\\]|((?:/|\\{1,2})users(?:/|\\{1,2}))([^/\\"':;|<>\n\t ,)]+)`)
	macs = regexp.MustCompile(`(?i)\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b`)
	// wsl are the MAC addresses of Hyper-V and of the gateway behind loopback0.
	wsl = []string{"00:15:5d:", "00:11:22:33:44:55"}

	sixes = regexp.MustCompile(`[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*`)
	fours = regexp.MustCompile(`\d+(?:\.\d+){3,}|\d+(?:-\d+){3,}`) // host-8-8-8-8
)

// addresses replaces the addresses in text by what by returns; "" keeps one.
func addresses(text string, by func(netip.Addr) string) string {
	text = sixes.ReplaceAllStringFunc(text, func(run string) string {
		var out strings.Builder
		const longest = 45
	next:
		for i := 0; i < len(run); i++ {
			for end := min(len(run), i+longest); end > i+2; end-- { // the longest match counts
				if a, err := netip.ParseAddr(run[i:end]); err == nil && a.Is6() {
					out.WriteString(cmp.Or(by(a), run[i:end]))
					i = end - 1
					continue next
				}
			}
			out.WriteByte(run[i])
		}
		return out.String()
	})
	return fours.ReplaceAllStringFunc(text, func(run string) string {
		numbers := strings.FieldsFunc(run, func(r rune) bool { return r == '.' || r == '-' })
		// In a run of more than four numbers it is unclear which of them form an
		// address. So one public address replaces the whole run.
		for i := 0; i+4 <= len(numbers); i++ {
			var b [4]byte
			valid := true
			for j, s := range numbers[i : i+4] {
				n, err := strconv.ParseUint(s, 10, 8)
				b[j], valid = byte(n), valid && err == nil && len(s) <= 3
			}
			if !valid {
				continue
			}
			if alias := by(netip.AddrFrom4(b)); alias != "" {
				return alias
			}
		}
		return run
	})
}

// special are addresses that do not belong to anybody: shared, documentation,
// benchmarking and reserved addresses, and masks. Those that netip recognizes are not
// listed.
var special = prefixes("0.0.0.0/8 100.64.0.0/10 192.0.0.0/24 192.0.2.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 2001:db8::/32 3fff::/20")

// embedding are prefixes whose addresses end with an IPv4 address.
var embedding = prefixes("::ffff:0:0/96 64:ff9b::/96 ::/96")

func prefixes(list string) (all []netip.Prefix) {
	for s := range strings.FieldsSeq(list) {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// public reports whether an address can identify somebody.
func public(a netip.Addr) bool {
	has := func(p netip.Prefix) bool { return p.Contains(a) }
	if a = a.WithZone(""); a.Is4In6() || slices.ContainsFunc(embedding, has) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	allotted := a.Is4() || a.As16()[0]>>5 == 1 // 2000::/3
	return allotted && !a.IsPrivate() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast() && !slices.ContainsFunc(special, has)
}
