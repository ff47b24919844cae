package main

import (
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"Ärger 漢字 ▶ ok":        "Ärger 漢字 ▶ ok",
		labtest.Hostile:        "?]0;x??2J??level=info\ufffd",
		"\t\r\x7f\u0085":       "????",
		"\u2066a\u2069\u200fb": "?a??b",
		"a\u2028b":             "a?b",
		"\U000e0041":           "?", // a tag, which no terminal shows
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) is %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add(labtest.Hostile)
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if r, found := labtest.Unprintable(got); found || strings.Contains(got, "\n") {
			t.Errorf("lets %q pass: %q", r, got)
		}
	})
}
