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

// A Redactor replaces what is private in a text that will be published: names of
// users (of Linux and of Windows, their full names too) and of hosts, public
// addresses of IPv4 and IPv6, and MAC addresses of hardware. The same one is
// replaced by the same words throughout, so that a reader can tell them apart.
//
// It keeps what says nothing of anybody and much of the fault: private, shared,
// link-local, loopback and multicast addresses, and those for documentation.
//
// It rather replaces too much: what looks like an address is one.
type Redactor struct {
	kinds map[string]string // "user" or "host", by the name in lower case
	kept  map[netip.Addr]bool
	seen  map[string]string // what was replaced, and by what
	count map[string]int
}

// ordinary are names that say nothing of anybody. To replace them would make
// the rest hard to read.
var ordinary = strings.Split("root,nobody,user,admin,localhost,localdomain,linux,windows,wsl,wslmirror,"+
	"ubuntu,debian,fedora,docker,podman,public,default,default user,all users", ",")

// NewRedactor makes a Redactor that knows no names yet.
func NewRedactor() *Redactor {
	return &Redactor{kinds: map[string]string{}, kept: map[netip.Addr]bool{}, seen: map[string]string{}, count: map[string]int{}}
}

// Add adds names of a kind, "user" or "host". A single letter is replaced in paths
// only.
func (r *Redactor) Add(kind string, words ...string) {
	for _, w := range words {
		w = strings.ToLower(strings.TrimSpace(w))
		if len([]rune(w)) > 1 && !slices.Contains(ordinary, w) && strings.ContainsFunc(w, unicode.IsLetter) && r.kinds[w] == "" {
			r.kinds[w] = kind
		}
	}
}

// Keep keeps what looks like an address in a text that has none: versions such as
// 2.9.4.0.
func (r *Redactor) Keep(text string) {
	addresses(text, func(a netip.Addr) string {
		r.kept[a] = true
		return ""
	})
}

// Redact replaces what is private in text.
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
		text = text[m[3]:] // with what ends the name, which may be ahead of another
	}
	text = macs.ReplaceAllStringFunc(out.String()+text, func(mac string) string {
		first, _ := strconv.ParseUint(mac[:2], 16, 8)
		const local = 2 // made up, as of containers
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

// pattern finds a name as a word.
func (r *Redactor) pattern() *regexp.Regexp {
	var all []string
	for w := range r.kinds {
		all = append(all, regexp.QuoteMeta(w))
	}
	// The longest first: a full name before its first word.
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	return regexp.MustCompile(`(?i)(?:^|[^\pL\pN])(` + strings.Join(all, "|") + `)(?:$|[^\pL\pN])`)
}

// alias is what stands for something private.
func (r *Redactor) alias(kind, of string) string {
	key := kind + " " + of
	if r.seen[key] == "" {
		r.count[kind]++
		r.seen[key] = fmt.Sprintf("<%s-%d>", kind, r.count[kind])
	}
	return r.seen[key]
}

var (
	// homes are the folders in which each user has one, known or not. Windows' are
	// also written with the backslash doubled, in JSON, and a name there may have
	// spaces, if a separator follows.
	homes = regexp.MustCompile(`(?i)(/home/)([^/\\"':;|<>\n\t ,)]+)|` +
		`((?:/|\\{1,2})users(?:/|\\{1,2}))([^/\\"':;|<>\n\t]{1,64})[/\\]|((?:/|\\{1,2})users(?:/|\\{1,2}))([^/\\"':;|<>\n\t ,)]+)`)
	macs = regexp.MustCompile(`(?i)\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b`)
	// wsl are the MAC addresses of Hyper-V, and of the gateway behind loopback0.
	wsl = []string{"00:15:5d:", "00:11:22:33:44:55"}

	sixes = regexp.MustCompile(`[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*`)
	fours = regexp.MustCompile(`\d+(?:\.\d+){3,}|\d+(?:-\d+){3,}`) // host-8-8-8-8
)

// addresses has by replace the addresses in text; "" keeps one.
func addresses(text string, by func(netip.Addr) string) string {
	text = sixes.ReplaceAllStringFunc(text, func(run string) string {
		var out strings.Builder
		const longest = 45
	next:
		for i := 0; i < len(run); i++ {
			for end := min(len(run), i+longest); end > i+2; end-- { // the longest counts
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
		// Of more than four nobody knows which are meant, so if any are public, they
		// stand for all.
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

// special are addresses that nobody has to himself: shared ones, those for
// documentation and benchmarks, reserved ones and masks. What netip tells is not
// among them.
var special = prefixes("0.0.0.0/8 100.64.0.0/10 192.0.0.0/24 192.0.2.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 2001:db8::/32 3fff::/20")

// embedding have an address of IPv4 at their end.
var embedding = prefixes("::ffff:0:0/96 64:ff9b::/96 ::/96")

func prefixes(list string) (all []netip.Prefix) {
	for s := range strings.FieldsSeq(list) {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// public reports whether an address leads to somebody.
func public(a netip.Addr) bool {
	has := func(p netip.Prefix) bool { return p.Contains(a) }
	if a = a.WithZone(""); a.Is4In6() || slices.ContainsFunc(embedding, has) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	allotted := a.Is4() || a.As16()[0]>>5 == 1 // 2000::/3
	return allotted && !a.IsPrivate() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast() && !slices.ContainsFunc(special, has)
}
