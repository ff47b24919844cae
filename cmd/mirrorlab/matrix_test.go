package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// Every way to a container of every engine is asked: what works without
// wslmirror works with it, and so does all the rest. The docs show the matrix
// as it is.
func TestMatrix(t *testing.T) {
	labtest.NeedTree(t)
	if err := build(); err != nil {
		t.Fatal(err)
	}
	wslmirror, err := findProgram("matrix", filepath.Join(programs, "wslmirror"))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := matrix(context.Background(), wslmirror, lab.Modes, settings(), newProgress(os.Stderr))
	if err := errors.Join(err, wslmirror.Close()); err != nil {
		t.Fatal(err)
	}
	for _, fault := range matrixFaults(rows) {
		t.Error(fault)
	}
	// The bench would be no bench if it did not show the faults, and the blanket
	// rule is what wslmirror is measured against.
	var broken, brokenByBlanket int
	for _, r := range rows {
		if !r.got[0].whole() {
			broken++
		}
		if r.mode == lab.Mirrored && r.got[blanketColumn].lost(r.got[0]) {
			brokenByBlanket++
		}
	}
	if broken == 0 || brokenByBlanket == 0 {
		t.Errorf("%d of %d rows are broken without wslmirror, %d by the blanket rule", broken, len(rows), brokenByBlanket)
	}

	shows(t, "matrix", "../../docs/engines.md", shortMatrix(rows))
	shows(t, "matrix", "../../docs/bench.md", markdownMatrix(rows))
}

// shows has a file show what a verb prints, or with -update writes it there.
func shows(t *testing.T, verb, file, want string) {
	t.Helper()
	begin, end := "<!-- mirrorlab "+verb+" --markdown -->\n", "<!-- end -->"
	before, rest, ok := strings.Cut(readFile(t, file), begin)
	shown, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for what %s prints", file, verb)
	}
	if *update {
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if shown != want {
		t.Errorf("%s shows\n%s\nand it is\n%s\nupdate it: go test ./cmd/mirrorlab -run %s -update", file, shown, want, t.Name())
	}
}

func TestMatrixFaults(t *testing.T) {
	whole := matrixCell{}
	whole.windows.tcp, whole.windows.udp, whole.linux.tcp, whole.linux.udp = true, true, true, true
	noUDP := whole
	noUDP.linux.udp = false
	tests := []struct {
		got  [4]matrixCell
		path string
		want string
	}{
		{[4]matrixCell{noUDP, {}, whole, whole}, "kernel", ""},
		{[4]matrixCell{noUDP, whole, noUDP, whole}, "direct", `mirrored: e on a: wslmirror does not repair it (column "wslmirror")`},
		{[4]matrixCell{whole, whole, whole, noUDP}, "direct", `mirrored: e on a: wslmirror breaks it (column "--path direct")`},
		{[4]matrixCell{whole, whole, whole, whole}, "proxy", `mirrored: e on a: with --path direct the path is "proxy"`},
	}
	for _, test := range tests {
		got := matrixFaults([]matrixRow{{engine: "e", address: "a", got: test.got, path: test.path}})
		if strings.Join(got, ", ") != test.want {
			t.Errorf("%v %s: %q, want %q", test.got, test.path, got, test.want)
		}
	}
}
