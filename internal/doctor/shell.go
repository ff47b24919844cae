package doctor

import (
	"strings"
	"unicode"
)

// What a check says to type is copied into a shell, most of it behind sudo. So
// nothing from elsewhere, the name of a link or of a process, may end a line or a
// word of it.

// oneLine is s without what ends a line, commands a terminal or cannot be seen.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// plainWord are the characters, beside letters and digits of ASCII, that mean
// nothing to a shell.
const plainWord = "_-+.,:/@%"

// word is s as one word of a shell.
func word(s string) string {
	special := func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(plainWord, r))
	}
	if s != "" && !strings.ContainsFunc(s, special) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// sysctlKey is the name of a sysctl of a link. sysctl(8) takes dots for
// separators, and in their place a slash for a dot (eth0.100).
func sysctlKey(link, name string) string {
	return "net.ipv4.conf." + strings.ReplaceAll(link, ".", "/") + "." + name
}
