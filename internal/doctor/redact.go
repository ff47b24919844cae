package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// A Redactor replaces what is private in a text that will be published: names of
// users (of Linux and of Windows, their full names too) and of hosts, and public
// addresses of IPv4 and IPv6. The same one is replaced by the same words
// throughout, so that a reader can still tell them apart.
//
// It keeps what says nothing of anybody and much of the fault: private, shared
// (RFC 6598), link-local, loopback and multicast addresses, those for
// documentation, and MAC addresses.
//
// It rather replaces too much: what looks like an address is one.
type Redactor struct {
	names map[rune][]name // by their first letter
	kept  map[netip.Addr]bool
	seen  map[string]string // what was replaced, and by what
	count map[string]int
}

// A name is a word to be replaced, in lower case.
type name struct {
	word []rune
	kind string // "user" or "host"
}

// ordinary are names that say nothing of anybody. To replace them would make
// the rest hard to read.
var ordinary = []string{
	"root", "nobody", "user", "admin", "localhost", "localdomain", "linux", "windows", "wsl", "wslmirror",
	"ubuntu", "debian", "fedora", "docker", "podman", "public", "default", "default user", "all users",
}

// NewRedactor makes a Redactor for the names on this machine, as far as they are
// known when ctx is done. root is where /etc, /proc and /mnt are.
func NewRedactor(ctx context.Context, root string) *Redactor {
	r := &Redactor{names: map[rune][]name{}, kept: map[netip.Addr]bool{}, seen: map[string]string{}, count: map[string]int{}}
	f := files{root}
	for _, v := range []string{"USER", "LOGNAME", "SUDO_USER"} {
		r.add("user", os.Getenv(v))
	}
	if home := os.Getenv("HOME"); home != "/" {
		r.add("user", filepath.Base(home))
	}
	people, _ := f.lines("etc/passwd")
	for _, l := range people {
		fields := strings.Split(l, ":")
		if len(fields) < 7 || !isPerson(fields[2]) {
			continue
		}
		full, _, _ := strings.Cut(fields[4], ",")
		r.add("user", fields[0], full, filepath.Base(fields[5]))
	}
	r.add("user", f.windowsUsers(ctx)...)
	hosts, _ := f.lines("etc/hostname")
	now, _ := f.lines("proc/sys/kernel/hostname")
	for _, h := range append(append(hosts, now...), os.Getenv("NAME"), os.Getenv("COMPUTERNAME")) {
		short, domain, _ := strings.Cut(h, ".")
		r.add("host", h, short)
		if strings.Contains(domain, ".") {
			r.add("host", domain)
		}
	}
	return r
}

// isPerson reports whether a user ID is that of a person, as login.defs(5) has it.
func isPerson(uid string) bool { return len(uid) >= 4 && uid != "65534" }

// windowsUsers are the names of the users of Windows, by their folders. That is
// on a drive of Windows, which may hang.
func (f files) windowsUsers(ctx context.Context) []string {
	found := make(chan []string, 1)
	go func() {
		var names []string
		dirs, _ := os.ReadDir(f.path("mnt/c/Users"))
		for _, d := range dirs {
			if d.IsDir() {
				names = append(names, d.Name())
			}
		}
		found <- names
	}()
	select {
	case names := <-found:
		return names
	case <-ctx.Done():
		return nil
	}
}

// add adds names of a kind. A single letter is replaced in paths only.
func (r *Redactor) add(kind string, words ...string) {
	for _, w := range words {
		w = strings.ToLower(strings.TrimSpace(w))
		word := []rune(w)
		if len(word) < 2 || slices.Contains(ordinary, w) || !strings.ContainsFunc(w, unicode.IsLetter) {
			continue
		}
		list := append(r.names[word[0]], name{word, kind})
		// The longest first: a full name before its first word.
		slices.SortStableFunc(list, func(a, b name) int { return cmp.Compare(len(b.word), len(a.word)) })
		r.names[word[0]] = list
	}
}

// Keep keeps what looks like an address in a text that has none: versions such as
// 2.9.4.0.
func (r *Redactor) Keep(text string) {
	scan := &Redactor{kept: map[netip.Addr]bool{}}
	scan.addresses(text, func(a netip.Addr) string {
		r.kept[a] = true
		return ""
	})
}

// Redact replaces what is private in text.
func (r *Redactor) Redact(text string) string {
	text = r.paths(text)
	text = r.words(text)
	return r.addresses(text, func(a netip.Addr) string { return r.alias("address", a.String()) })
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

// words replaces the names where they stand as words.
func (r *Redactor) words(text string) string {
	runes := []rune(text)
	lower := make([]rune, len(runes))
	for i, c := range runes {
		lower[i] = unicode.ToLower(c)
	}
	inWord := func(i int) bool {
		return i >= 0 && i < len(lower) && (unicode.IsLetter(lower[i]) || unicode.IsDigit(lower[i]))
	}
	var out strings.Builder
next:
	for i := 0; i < len(runes); {
		if !inWord(i - 1) {
			for _, n := range r.names[lower[i]] {
				end := i + len(n.word)
				if end <= len(lower) && slices.Equal(lower[i:end], n.word) && !inWord(end) {
					out.WriteString(r.alias(n.kind, string(n.word)))
					i = end
					continue next
				}
			}
		}
		out.WriteRune(runes[i])
		i++
	}
	return out.String()
}

// homes are the folders in which each user has one, in lower case. Windows' are
// also written with the backslash doubled, in JSON.
var homes = []string{"/home/", "/users/", `\users\`, `\\users\\`}

// paths replaces the name of a user in paths, whether it is known or not.
func (r *Redactor) paths(text string) string {
	lower := strings.ToLower(text)
	if len(lower) != len(text) {
		// Some letters have a longer twin. Then only ASCII counts.
		lower = asciiLower(text)
	}
	var out strings.Builder
	at := 0
	for i := 0; i < len(text); {
		home := ""
		for _, h := range homes {
			if strings.HasPrefix(lower[i:], h) {
				home = h
			}
		}
		if home == "" {
			i++
			continue
		}
		start := i + len(home)
		end := start + nameLength(text[start:], home != "/home/")
		i = max(end, i+1)
		if word := lower[start:end]; word != "" && !strings.HasPrefix(word, "<") && !slices.Contains(ordinary, word) {
			out.WriteString(text[at:start])
			out.WriteString(r.alias("user", word))
			at = end
		}
	}
	out.WriteString(text[at:])
	return out.String()
}

// nameLength is how long the name is with which rest begins. In Windows it may
// have spaces, if a separator follows.
func nameLength(rest string, spaces bool) int {
	const longest = 64
	rest = rest[:min(len(rest), 2*longest)]
	end := strings.IndexAny(rest, "/\\\"':;|<>\n\t")
	if end < 0 {
		end = len(rest)
	}
	separated := end < len(rest) && (rest[end] == '/' || rest[end] == '\\')
	if !spaces || !separated || end > longest {
		if space := strings.IndexAny(rest[:end], " ,)"); space >= 0 {
			end = space
		}
	}
	return end
}

func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
