package vm

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestDiffering(t *testing.T) {
	want := "# what is wanted\nCONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\n# CONFIG_D is not set\nCONFIG_E=16\nCONFIG_F=\"f\"\nCONFIG_G=y\n"
	got := "CONFIG_F=\"f\"\nCONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\nCONFIG_E=17\nCONFIG_H=y\n"
	if d := differing([]byte(want), []byte(got)); !slices.Equal(d, []string{"B", "E", "G"}) {
		t.Errorf("%q differ", d)
	}
	if d := differing([]byte("# CONFIG_A is not set\n"), []byte("CONFIG_A=m\n")); !slices.Equal(d, []string{"A"}) {
		t.Errorf("%q differ", d)
	}
}

// Each line of WSL's values is one that the rule in its head would print, and they are
// sorted, so that another version can be compared.
func TestConfigOfWSL(t *testing.T) {
	text := config("wsl-6.18")
	rule := regexp.MustCompile(`(?m)^#     grep -E '(.+)' config-wsl$`).FindSubmatch(text)
	if rule == nil {
		t.Fatal("no rule")
	}
	matches, last := regexp.MustCompile(string(rule[1])), ""
	n := 0
	for line := range bytes.Lines(text) {
		m := symbol.FindSubmatch(bytes.TrimSuffix(line, []byte("\n")))
		if m == nil {
			continue
		}
		n++
		if name := string(m[1]) + string(m[3]); name <= last || !matches.Match(line) {
			t.Errorf("%s after %q", strings.TrimSpace(string(line)), last)
		} else {
			last = name
		}
	}
	if n < 400 {
		t.Errorf("%d values", n)
	}
}
