// Package text makes what came from elsewhere fit for a terminal, a shell, JSON or
// the public: names of links, chains and processes, and what programs print.
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

// Visible reports whether r can be seen. Control characters cannot, which command a
// terminal, nor those that turn the direction of writing, so that one reads what is
// not there.
func Visible(r rune) bool { return unicode.IsPrint(r) }

// Line is s as one line, in which what cannot be seen is a question mark.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		if !Visible(r) {
			return '?'
		}
		return r
	}, s)
}

// Lines is Line for a text of several lines, which may end as in Windows.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = Line(strings.ReplaceAll(strings.TrimSuffix(l, "\r"), "\t", "    "))
	}
	return strings.Join(lines, "\n")
}

// Escaped is s with escapes as in Go's strings for what cannot be seen, if there is
// any.
func Escaped(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !Visible(r) || r == utf8.RuneError }) < 0 {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// JSON writes what cannot be seen in a JSON document with escapes. encoding/json
// does so for the control characters of ASCII only.
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

// plain are the characters, beside letters and digits of ASCII, that mean nothing
// to a shell.
const plain = "_-+.,:/@%"

// Word is s as one word of a shell.
func Word(s string) string {
	special := func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(plain, r))
	}
	if s != "" && !strings.ContainsFunc(s, special) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
