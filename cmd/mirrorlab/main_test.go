package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// call runs the program in this process.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(t.Context(), args, stdio{strings.NewReader(""), &out, &errs})
	return code, out.String(), errs.String()
}

func TestUsageErrors(t *testing.T) {
	for _, test := range []struct {
		args string
		want string // in the first line on standard error
	}{
		{"", "a command is missing"},
		{"storm", `there is no command "storm"`},
		{"chaos --path warp", `--path: "warp" is none of proxy, direct, both`},
		{"chaos --steps 0", "--steps and --worlds are at least 1"},
		{"bench --only proxy,none", "there is no way \"none\""},
		{"bench --trial many --only server", "or none with these ways"},
		{"chaos --worlds 5", "10 worlds at a time are more than 4"},
		{"matrix --engine rkt --wslmirror true", `there is no engine "rkt"`},
		{"bench --rounds 0", "--rounds and --seconds must be 1 or more"},
		{"bench --seconds -1", "--rounds and --seconds must be 1 or more"},
		{"bench --json --markdown", "--json and --markdown exclude each other"},
		{"bench --engine podman-cni", `--engine: "podman-cni" has no proxy to compare with`},
		{"bench --trial fast", `--trial: there is no trial "fast"`},
		{"--wslmirror x demo", "flag --wslmirror has no place before the command"},
		{"demo --fast", "flag provided but not defined: -fast"},
		{"demo --wslmirror", "flag needs an argument"},
		{"demo now", `demo takes no argument "now"`},
		{"shell bash", `shell takes no argument "bash"`},
		{"help demo", `help takes no argument "demo"`},
	} {
		code, stdout, stderr := call(t, strings.Fields(test.args)...)
		lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
		if code != exitUsage || stdout != "" || len(lines) != 2 ||
			!strings.HasPrefix(lines[0], "mirrorlab: ") || !strings.Contains(lines[0], test.want) ||
			lines[1] != "hint: see 'mirrorlab help'" {
			t.Errorf("mirrorlab %s: exit %d, stdout %q, stderr %q; want exit 2, one line with %q and a hint",
				test.args, code, stdout, stderr, test.want)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, args := range []string{"help", "--help", "-h", "demo --help", "shell -h", "help --help"} {
		code, stdout, stderr := call(t, strings.Fields(args)...)
		if code != exitOK || stdout != usage || stderr != "" {
			t.Errorf("mirrorlab %s: exit %d, stderr %q, stdout %.40q...", args, code, stderr, stdout)
		}
	}
	for line := range strings.Lines(usage) {
		if n := len([]rune(line)); n > 81 {
			t.Errorf("a line of the usage has %d characters: %s", n-1, line)
		}
	}
	for _, v := range verbs {
		if !strings.Contains(usage, "\n  "+v.name) {
			t.Errorf("the usage does not name %s", v.name)
		}
	}
}

func TestNoWslmirror(t *testing.T) {
	code, stdout, stderr := call(t, "demo", "--wslmirror", "/nowhere/wslmirror")
	if code != exitFailure || stdout != "" || !strings.HasPrefix(stderr, "mirrorlab: find wslmirror: ") ||
		!strings.Contains(stderr, "\nhint: run 'make build'") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestProgress(t *testing.T) {
	failed := errors.New("failed")
	for _, test := range []struct {
		terminal bool
		err      error
		want     string
	}{
		{false, nil, "✓ work (0.0 s)\n"},
		{false, failed, "✗ work (0.0 s)\n"},
		{true, nil, "\r⠋ work\r\x1b[K✓ work (0.0 s)\n"},
	} {
		var out bytes.Buffer
		if err := (progress{&out, test.terminal}).step("work", func() error { return test.err }); !errors.Is(err, test.err) {
			t.Errorf("error %v, want %v", err, test.err)
		}
		if got := out.String(); got != test.want {
			t.Errorf("prints %q, want %q", got, test.want)
		}
	}
	if isTerminal(io.Discard) || wantsColour(new(bytes.Buffer)) {
		t.Error("what is no file is taken for a terminal")
	}
}
