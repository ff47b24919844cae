package repo

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pages returns all Markdown files by their path from the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			name, _ := filepath.Rel(root, f)
			texts[name] = string(b)
		}
	}
	if len(texts) < 10 {
		t.Fatalf("only %d pages were found", len(texts))
	}
	return texts
}

var (
	fence    = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	inline   = regexp.MustCompile("`[^`\n]+`")
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#{1,6} (.*)$`)
	unslug   = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	sentence = regexp.MustCompile(`[.!?:](\s|$)`)
)

// anchors returns the anchors that GitHub gives the headings of a page.
func anchors(page string) (list []string) {
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		list = append(list, strings.ReplaceAll(unslug.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-"))
	}
	return list
}

// A link leads to an existing file, and to an existing heading in it.
func TestLinks(t *testing.T) {
	texts := pages(t)
	for name, page := range texts {
		for _, l := range link.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
			to, anchor, _ := strings.Cut(l[1], "#")
			// These pages of GitHub are not files of the repository.
			if strings.Contains(to, "://") || strings.HasSuffix(to, "../issues") || strings.HasSuffix(to, "../releases") {
				continue
			}
			file := name
			if to != "" {
				file = filepath.Join(filepath.Dir(name), to)
			}
			if _, err := os.Stat(filepath.Join(root, file)); err != nil {
				t.Errorf("%s: %s leads nowhere: %v", name, l[1], err)
			}
			if anchor != "" && !slices.Contains(anchors(texts[file]), anchor) {
				t.Errorf("%s: there is no heading for %s", name, l[1])
			}
		}
	}
}

// The README is for a reader who has two minutes.
func TestREADMEIsShort(t *testing.T) {
	const most = 150
	if n := strings.Count(pages(t)["README.md"], "\n"); n > most {
		t.Errorf("README.md has %d lines, want at most %d", n, most)
	}
}

// prose returns the paragraphs and list items of a page, without code and tables.
func prose(page string) (paragraphs []string) {
	page = fence.ReplaceAllString(page, "\n")
	page = regexp.MustCompile(`(?s)<!--.*?-->|<[a-z/][^>]*>`).ReplaceAllString(page, "")
	page = inline.ReplaceAllString(page, "code")
	page = link.ReplaceAllString(page, "]")
	page = regexp.MustCompile(`(?m)^(#.*|\|.*)$`).ReplaceAllString(page, "\n")
	page = regexp.MustCompile(`(?m)^\s*([-*]|\d+\.) `).ReplaceAllString(page, "\n")
	for p := range strings.SplitSeq(page, "\n\n") {
		if p = strings.TrimSpace(p); p != "" {
			paragraphs = append(paragraphs, p)
		}
	}
	return paragraphs
}

// lengths returns the lengths of a page's sentences in words, sorted.
func lengths(page string) (words []int) {
	for _, p := range prose(page) {
		for _, s := range sentence.Split(p, -1) {
			if n := len(strings.Fields(s)); n > 1 {
				words = append(words, n)
			}
		}
	}
	slices.Sort(words)
	return words
}

// Sentences are short: many readers are not native speakers of English.
func TestSentencesAreShort(t *testing.T) {
	const mean, ninety = 20, 30
	for name, page := range pages(t) {
		if !strings.HasPrefix(name, "docs/") && name != "README.md" || slices.Contains(translations, name) {
			continue
		}
		l := lengths(page)
		if len(l) == 0 {
			t.Errorf("%s has no sentences", name)
			continue
		}
		sum := 0
		for _, n := range l {
			sum += n
		}
		m, q := float64(sum)/float64(len(l)), l[len(l)*9/10]
		t.Logf("%-26s %3d sentences, mean %4.1f words, 90th percentile %d", name, len(l), m, q)
		if m > mean || q > ninety {
			t.Errorf("%s: the mean is %.1f words and the 90th percentile %d, want at most %d and %d", name, m, q, mean, ninety)
		}
	}
}

var translations = []string{"docs/ja.md", "docs/ko.md", "docs/zh-CN.md"}

// ours matches commands of this repository in code.
var ours = regexp.MustCompile("(?m)(?:^|`)(?:\\$ )?(?:sudo )?(?:bin/)?((?:wslmirror|mirrorlab|make) [a-z][^`\n#&|]*)")

// code returns all code of a page.
func code(page string) string {
	var b strings.Builder
	for _, f := range fence.FindAllStringSubmatch(page, -1) {
		b.WriteString(f[2] + "\n")
	}
	for _, c := range inline.FindAllString(fence.ReplaceAllString(page, ""), -1) {
		b.WriteString(c + "\n")
	}
	return b.String()
}

// Each command in a page exists, and so do its flags.
func TestCommandsExist(t *testing.T) {
	bin := t.TempDir()
	goCommand(t, "build", "-o", bin, "./cmd/...")
	help := map[string]string{}
	for _, program := range []string{"wslmirror", "mirrorlab"} {
		out, err := exec.Command(filepath.Join(bin, program), "help").Output()
		if err != nil {
			t.Fatal(err)
		}
		help[program] = string(out)
	}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for name, page := range pages(t) {
		if name == "CHANGELOG.md" {
			continue
		}
		for _, c := range ours.FindAllStringSubmatch(code(page), -1) {
			fields := strings.Fields(c[1])
			program, verb := fields[0], fields[1]
			seen++
			if program == "make" {
				if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(verb) + `:`).Match(makefile) {
					t.Errorf("%s: there is no %q", name, c[1])
				}
				continue
			}
			if !regexp.MustCompile(`(?m)^  (` + program + ` )?` + regexp.QuoteMeta(verb) + `\b`).MatchString(help[program]) {
				t.Errorf("%s: %s has no verb of %q", name, program, c[1])
			}
			for _, f := range fields[2:] {
				flag, _, _ := strings.Cut(f, "=")
				if strings.HasPrefix(flag, "--") && !strings.Contains(help[program], flag) {
					t.Errorf("%s: %s has no flag of %q", name, program, c[1])
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d commands were found", seen)
	}
}

// The translations contain exactly the commands and options of the README.
func TestTranslationsKeepStep(t *testing.T) {
	texts := pages(t)
	readme := texts["README.md"]
	option := regexp.MustCompile("(?m)^\\| `(--[^`]*)`")
	for _, name := range translations {
		page := texts[name]
		for _, c := range append(inline.FindAllString(page, -1), commandLines(page)...) {
			if c = strings.Trim(c, "`"); !strings.Contains(readme, c) {
				t.Errorf("%s: the README has no %q", name, c)
			}
		}
		want := fmt.Sprint(option.FindAllStringSubmatch(readme, -1))
		if got := fmt.Sprint(option.FindAllStringSubmatch(page, -1)); got != want {
			t.Errorf("%s has the options %s, the README %s", name, got, want)
		}
		for _, c := range ours.FindAllStringSubmatch(code(between(readme, "## It does not work", "## Settings")), -1) {
			if !strings.Contains(page, strings.TrimSpace(c[1])) {
				t.Errorf("%s does not have %q", name, c[1])
			}
		}
	}
}

// commandLines returns the lines of the code blocks.
func commandLines(page string) (lines []string) {
	for _, f := range fence.FindAllStringSubmatch(page, -1) {
		for l := range strings.Lines(f[2]) {
			lines = append(lines, strings.TrimSpace(l))
		}
	}
	return lines
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

// Each check of doctor has a heading, which doctor refers to, and no other heading
// exists.
func TestEachCheckIsExplained(t *testing.T) {
	source, err := os.ReadFile(filepath.Join(root, "internal/doctor/doctor.go"))
	if err != nil {
		t.Fatal(err)
	}
	var checks []string
	for _, c := range regexp.MustCompile(`(?m)^\t\{"([a-z0-9-]+)", `).FindAllStringSubmatch(string(source), -1) {
		checks = append(checks, c[1])
	}
	_, page, _ := strings.Cut(pages(t)["docs/doctor.md"], "\n## Checks\n")
	headings := anchors(page)
	slices.Sort(checks)
	slices.Sort(headings)
	if len(checks) < 20 || !slices.Equal(checks, headings) {
		t.Errorf("doctor has the checks\n%q\nand its page explains\n%q", checks, headings)
	}
}
