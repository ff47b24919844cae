package main

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
)

var update = flag.Bool("update", false, "write the golden files")

// expected is what the demo should find.
func expected(mode lab.Mode) []row {
	var rows []row
	for _, w := range ways(&bench{Bench: new(lab.Bench)}, mode) {
		w.got = w.want
		rows = append(rows, w.row)
	}
	return rows
}

func TestRender(t *testing.T) {
	broken := expected(lab.Mirrored)
	broken[0].got[with] = noAnswer
	broken[1].got[without] = "refused"
	broken[4].got = [3]string{"by Windows", "by Windows", "by Windows"}
	broken[7].got[with] = refused
	degraded := expected(lab.Mirrored)
	degraded[7].want = always(noAnswer)
	degraded[7].got, degraded[7].leftOut = degraded[7].want, true
	for name, test := range map[string]struct {
		rows   []row
		note   string
		colour bool
	}{
		"expected":     {expected(lab.Mirrored), "", false},
		"colour":       {expected(lab.Mirrored), "", true},
		"mirrored-hal": {expected(lab.MirroredHAL), "", false},
		"consomme":     {expected(lab.Consomme), "", false},
		"broken":       {broken, "", false},
		"degraded":     {degraded, "wslmirror leaves out closed ports, because\nthis kernel lacks CONFIG_NF_CONNTRACK_TIMEOUT.\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			got := render(test.rows, test.note, test.colour)
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			if test.colour {
				return
			}
			for line := range strings.Lines(got) {
				if n := len([]rune(line)); n > 81 {
					t.Errorf("a line of %d characters: %s", n-1, line)
				}
			}
		})
	}
	if cells := wrong(expected(lab.Mirrored)); cells != nil {
		t.Errorf("wrong: %q", cells)
	}
	want := []string{
		"Windows → container 8080/tcp, with wslmirror: ✗ no answer, and it should be: ✓ answers",
		"Windows → container 5353/udp, without wslmirror: ✗ refused, and it should be: ✗ no answer",
		"Windows → Linux 9000/tcp, without wslmirror: ✗ by Windows, and it should be: ✓ answers",
		"Windows → Linux 9000/tcp, with wslmirror: ✗ by Windows, and it should be: ✓ answers",
		"Windows → Linux 9000/tcp, after it stopped: ✗ by Windows, and it should be: ✓ answers",
		"Linux → closed port 7999/tcp, with wslmirror: ✗ refused, and it should be: ✓ refused, 1 s",
	}
	if cells := wrong(broken); !slices.Equal(cells, want) {
		t.Errorf("wrong: %q\nwant: %q", cells, want)
	}
}

// The text without its colours is the text without colours.
func TestRenderColour(t *testing.T) {
	plain := strings.NewReplacer("\x1b[31m", "", "\x1b[32m", "", "\x1b[0m", "").Replace(render(expected(lab.Mirrored), "", true))
	if want := render(expected(lab.Mirrored), "", false); plain != want {
		t.Errorf("got:\n%q\nwant:\n%q", plain, want)
	}
}
