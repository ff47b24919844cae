// Package text makes foreign text safe for a terminal, a shell, JSON or publication:
// names of links, chains and processes, and the output of programs.
package text

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Visible reports whether r is visible. Not visible are control characters, which can
// command a terminal, and characters that change the direction of writing, which can
// make text look different from what it is.
func Visible(r rune) bool { return unicode.IsPrint(r) }

// Line returns s as one line. Characters that are not visible become question marks.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		if !Visible(r) {
			return '?'
		}
		return r
	}, s)
}

// Lines is Line for several lines, which may have Windows line endings.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = Line(strings.ReplaceAll(strings.TrimSuffix(l, "\r"), "\t", "    "))
	}
	return strings.Join(lines, "\n")
}

// Escaped returns s with Go escapes for characters that are not visible. If there are
// none, it returns s unchanged.
func Escaped(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !Visible(r) || r == utf8.RuneError }) < 0 {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// JSON escapes characters in a JSON document that are not visible. encoding/json does
// so only for ASCII control characters.
func JSON(b []byte) []byte {
	visible := func(r rune) bool { return r == '\n' || Visible(r) }
	if !bytes.ContainsFunc(b, func(r rune) bool { return !visible(r) }) {
		return b
	}
	var out []byte
	for _, r := range string(b) {
		switch high, low := utf16.EncodeRune(r); {
		case visible(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// plain are the characters, besides ASCII letters and digits, that mean nothing to a
// shell.
const plain = "_-+.,:/@%"

// Word returns s as one word for a shell.
func Word(s string) string {
	special := func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(plain, r))
	}
	if s != "" && !strings.ContainsFunc(s, special) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
