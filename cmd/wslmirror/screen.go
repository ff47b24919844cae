package main

import (
	"bytes"
	"cmp"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// A screen describes where text for people is shown. All marks, colours and folding of
// this program are here.
type screen struct {
	width  int  // in columns
	ascii  bool // the locale is not UTF-8
	colour bool
}

// The width where there is no terminal, and the least width.
const (
	usualWidth = 80
	leastWidth = 60
)

// paper is the screen for a file.
var paper = screen{width: usualWidth}

// screenOf is the screen behind w.
func screenOf(w io.Writer) screen {
	s := screen{width: usualWidth, ascii: !utf8Locale(), colour: colourful(w)}
	if size, ok := terminal(w); ok && size.Col > 0 {
		s.width = max(int(size.Col), leastWidth)
	}
	return s
}

// terminal is the size of the terminal w, zero if unknown. ok is false if w
// is not a terminal.
func terminal(w io.Writer) (size unix.Winsize, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile {
		return size, false
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return size, false
	}
	if known, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
		size = *known
	}
	return size, true
}

// utf8Locale reports whether the locale is UTF-8, from the variables of setlocale(3)
// in their order.
func utf8Locale() bool {
	name := strings.ToLower(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG")))
	return strings.Contains(name, "utf-8") || strings.Contains(name, "utf8")
}

// colourful reports whether w is a terminal whose user wants colours
// (https://no-color.org).
func colourful(w io.Writer) bool {
	_, ok := terminal(w)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// A mark begins a line and shows how bad it is.
type mark struct{ utf8, ascii, colour string }

var (
	markOK      = mark{"✓", "[ok]", green}
	markFault   = mark{"✗", "[x]", red}
	markWarning = mark{"!", "[!]", yellow}
	markUnknown = mark{"?", "[?]", cyan}
	markOn      = mark{"●", "[*]", green}
	markOff     = mark{"○", "[ ]", yellow}
)

const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	cyan   = "\x1b[36m"
	plain  = "\x1b[m"
)

// mark is m with words of the same meaning, in its colour.
func (s screen) mark(m mark, words string) string {
	sign := m.utf8
	if s.ascii {
		sign = m.ascii
	}
	if words != "" && sign != "["+words+"]" {
		sign += " " + words
	}
	if s.colour {
		return m.colour + sign + plain
	}
	return sign
}

// inASCII replaces the characters in our own texts that are not ASCII, except marks.
var inASCII = strings.NewReplacer("──▶", "-->", "→", "->", "…", "...")

// show is one of our own texts as s can show it. Do not pass names from elsewhere.
func (s screen) show(text string) string {
	if s.ascii {
		return inASCII.Replace(text)
	}
	return text
}

var colours = regexp.MustCompile("\x1b\\[[0-9]*m")

// columns is the width of a text in columns.
func columns(text string) int { return utf8.RuneCountInString(colours.ReplaceAllString(text, "")) }

// fold breaks a text into lines that fit, each with indent, and all but the first with
// more spaces.
func (s screen) fold(text, indent string, more int) string {
	var b strings.Builder
	b.WriteString(indent)
	at := len(indent)
	for i, word := range strings.Fields(text) {
		n := columns(word)
		switch {
		case i == 0:
		case at+1+n > s.width:
			b.WriteString("\n" + indent + strings.Repeat(" ", more))
			at = len(indent) + more
		default:
			b.WriteString(" ")
			at++
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}

const (
	gap       = 3  // between columns
	leastCell = 24 // least width of a last column that is folded beside the others
)

// table prints rows in columns. Columns that do not fit continue below, from
// the position of the second column. The last column is folded.
func (s screen) table(b *bytes.Buffer, indent string, rows [][]string) {
	var widest []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widest) {
				widest = append(widest, 0)
			}
			widest[i] = max(widest[i], columns(cell))
		}
	}
	at, line := make([]int, len(widest)), make([]int, len(widest)) // where each column is
	next, below := len(indent), 0
	for i, n := range widest {
		least := n
		if i == len(widest)-1 {
			least = min(n, leastCell)
		}
		if i > 1 && next+least > s.width {
			next, below = at[1], below+1
		}
		at[i], line[i] = next, below
		next += n + gap
	}
	for _, row := range rows {
		pos, on := 0, 0
		for i, cell := range row {
			if cell == "" {
				continue
			}
			if line[i] > on {
				b.WriteString("\n")
				pos, on = 0, line[i]
			}
			b.WriteString(strings.Repeat(" ", at[i]-pos))
			if i == len(widest)-1 {
				cell = strings.TrimLeft(s.fold(cell, strings.Repeat(" ", at[i]), 0), " ")
			}
			b.WriteString(cell)
			pos = at[i] + columns(cell)
		}
		b.WriteString("\n")
	}
}
