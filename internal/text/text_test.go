package text

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// hostile is a name that contains terminal commands (ASCII and C1), a change of
// direction, a new log line and invalid UTF-8.
const hostile = "\x1b]0;x\a\u009b2J\u202e\nlevel=info\xff"

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"Ärger 漢字 ▶ ok":        "Ärger 漢字 ▶ ok",
		hostile:                "?]0;x??2J??level=info\ufffd",
		"\t\r\x7f\u0085":       "????",
		"\u2066a\u2069\u200fb": "?a??b",
		"a\u2028b":             "a?b",
		"\U000e0041":           "?", // a tag, which terminals do not show
	} {
		if got := Line(in); got != want {
			t.Errorf("Line(%q) is %q, want %q", in, got, want)
		}
	}
}

// Line endings are normalized, whichever system wrote the text.
func TestLines(t *testing.T) {
	if got := Lines("one\r\ntwo\tx\r\n\r\x1b\n"); got != "one\ntwo    x\n??\n" {
		t.Errorf("%q", got)
	}
}

func FuzzLine(f *testing.F) {
	f.Add(hostile)
	f.Fuzz(func(t *testing.T, s string) {
		for _, got := range []string{Line(s), Escaped(s)} {
			hidden := func(r rune) bool { return !unicode.IsPrint(r) }
			if strings.ContainsFunc(got, hidden) || !utf8.ValidString(got) {
				t.Errorf("%q is %q", s, got)
			}
		}
	})
}

func TestJSON(t *testing.T) {
	in := "\x1b[2J \u009b \u202e \U000e0041 \x7f \u2028 Ä ▶\n"
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	const want = `"\u001b[2J \u009b \u202e \udb40\udc41 \u007f \u2028 Ä ▶\n"`
	out := JSON(b)
	var back string
	if err := json.Unmarshal(out, &back); err != nil || string(out) != want || back != in {
		t.Errorf("%s, %v, and back %q", out, err, back)
	}
}

// A real shell must read a quoted word as one word, unchanged.
func TestWord(t *testing.T) {
	for _, s := range []string{"eth0", "", "a'b", "';reboot;'", "$(id)", "`id`", "x y", "*", "~", "#", "\\", "\"", "a=b", "ünal", "-n"} {
		out, err := exec.Command("sh", "-c", "printf '%s' "+Word(s)).Output()
		if err != nil || string(out) != s {
			t.Errorf("%q is %s, and to the shell %q, %v", s, Word(s), out, err)
		}
	}
	if got := Word("eth0.100"); got != "eth0.100" {
		t.Errorf("needless quotes: %s", got)
	}
}
