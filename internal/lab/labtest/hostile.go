package labtest

import (
	"unicode"
	"unicode/utf8"
)

// Hostile is a name that would command a terminal, in ASCII and in C1, change the
// direction of what follows, begin a new line of a log, and is not UTF-8.
const Hostile = "\x1b]0;x\a\u009b2J\u202e\nlevel=info\xff"

// Unprintable is the first character of s that a terminal must not get.
func Unprintable(s string) (r rune, found bool) {
	for _, r := range s {
		if r != '\n' && !unicode.IsPrint(r) {
			return r, true
		}
	}
	return 0, !utf8.ValidString(s)
}
