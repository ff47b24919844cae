package packaging

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A schema is a part of a JSON Schema.
type schema struct {
	Description string
	Properties  map[string]schema
	Items       *schema
	Defs        map[string]schema `json:"$defs"`
}

// each calls fn with each member that the schema describes.
func (s schema) each(fn func(name, description string)) {
	for name, p := range s.Properties {
		fn(name, p.Description)
		p.each(fn)
	}
	for _, d := range s.Defs {
		d.each(fn)
	}
	if s.Items != nil {
		s.Items.each(fn)
	}
}

// wslmirror-json(5) describes the same members as the schemas, in the same words, each
// under the heading of its document.
func TestManualOfJSON(t *testing.T) {
	b, err := os.ReadFile("wslmirror-json.5")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, s := range strings.Split(string(b), "\n.Sh ")[1:] {
		head, body, _ := strings.Cut(s, "\n")
		sections[head] = body
	}
	files, err := filepath.Glob("schema/*.json")
	if err != nil || len(files) != 6 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var s schema
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		section := sections[strings.ToUpper(strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".json"), "-", " "))]
		words := strings.NewReplacer("\n", " ", `\(lq`, `"`, `\(rq`, `"`, `\&`, "").Replace(section)
		var want []string
		s.each(func(name, description string) {
			if name == "first" || name == "last" {
				return // described once for all ranges
			}
			want = append(want, name)
			if description == "" || !strings.Contains(words, description) {
				t.Errorf("%s: wslmirror-json(5) does not say of %s %q", file, name, description)
			}
		})
		var got []string
		for _, m := range regexp.MustCompile(`(?m)^\.It Li (\S+)$`).FindAllStringSubmatch(section, -1) {
			if m[1] != "first" && m[1] != "last" {
				got = append(got, m[1])
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if want, got := slices.Compact(want), slices.Compact(got); !slices.Equal(want, got) {
			t.Errorf("%s: wslmirror-json(5) has %q, the schema %q", file, got, want)
		}
	}
}
