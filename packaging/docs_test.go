package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// ownProgram extracts the program for this machine.
func ownProgram(t *testing.T) string {
	t.Helper()
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		unable(t, "there is no package for %s", runtime.GOARCH)
	}
	return program(t, runtime.GOARCH)
}

func TestManual(t *testing.T) {
	need(t, "mandoc", "man", "groff")
	// The level "style" would also look on this machine for the pages under SEE ALSO.
	for _, page := range []string{"wslmirror.8", "wslmirror-json.5"} {
		if out := run(t, "mandoc", "-T", "lint", "-W", "warning", page); out != "" {
			t.Errorf("mandoc says:\n%s", out)
		}
		cmd := exec.CommandContext(t.Context(), "man", "--warnings", "--local-file", page)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=80", "MANROFFSEQ=")
		var warnings strings.Builder
		cmd.Stderr = &warnings
		if _, err := cmd.Output(); err != nil || warnings.Len() > 0 {
			t.Errorf("man: %v\n%s", err, warnings.String())
		}
	}
}

// The manual and the completions have exactly the program's flags.
func TestFlags(t *testing.T) {
	need(t, "dpkg-deb")
	bin := ownProgram(t)
	help := run(t, bin, "--help") + run(t, bin, "run", "--help") + run(t, bin, "status", "--help")
	help = regexp.MustCompile(`.*systemctl.*`).ReplaceAllString(help, "") // systemctl's own flag
	want := flags(`--([a-z][a-z-]*)`, help+" --help --version")

	for file, pattern := range map[string]string{
		"wslmirror.8":               `Fl -([a-z-]+)`,
		"completion/wslmirror.bash": `--([a-z][a-z-]*)`,
		"completion/wslmirror.zsh":  `--([a-z][a-z-]*)`,
		"completion/wslmirror.fish": ` -l ([a-z-]+)`,
	} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := flags(pattern, string(b)); !slices.Equal(got, want) {
			t.Errorf("%s has %q, the program %q", file, got, want)
		}
	}
}

// flags returns what the group in the pattern matches, sorted.
func flags(pattern, text string) []string {
	var found []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func TestBashCompletion(t *testing.T) {
	need(t, "bash")
	publishing(t)
	complete := func(words ...string) []string {
		return strings.Fields(run(t, "bash", append([]string{"-euc", `
			. completion/wslmirror.bash
			COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
			_wslmirror
			printf '%s\n' "${COMPREPLY[@]}"`, "bash"}, words...)...))
	}
	for _, test := range []struct {
		line string
		want string
	}{
		{"wslmirror st", "status"},
		{"wslmirror run --log-level ", "error warning info debug"},
		{"wslmirror run --path ", "proxy direct"},
		{"wslmirror run --interface l", "lo"},
		{"wslmirror run --in", "--interface"},
		{"wslmirror run --user roo", "root"},
		{"wslmirror status --j", "--json"},
		{"wslmirror run --path =", "proxy direct"},
		{"wslmirror run --path = d", "direct"},
		{"wslmirror status --w", "--watch"},
		{"wslmirror ports e", "explain"},
		{"wslmirror ports f", "free"},
		{"wslmirror ports free --f", "--from"},
		{"wslmirror ports explain ", "8080 5353"},
		{"wslmirror doctor --bundle ", ""},
		{"wslmirror doctor --bundle x --j", ""},
		{"wslmirror log --s", "--since"},
		{"wslmirror log --since = 1", "10m 1h"},
		{"wslmirror help d", "doctor"},
		{"wslmirror ports --j", "--json"},
		{"wslmirror ports explain 80", "8080"},
		{"wslmirror doctor --b", "--bundle"},
	} {
		got := complete(strings.Split(test.line, " ")...)
		if test.want == "lo" { // this machine's links may begin with l as well
			got = slices.DeleteFunc(got, func(s string) bool { return s != "lo" })
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%q completes to %q, want %q", test.line, got, test.want)
		}
	}
}

// publishing stands in for a wslmirror whose daemon knows two published ports.
func publishing(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	const script = "#!/bin/sh\n" + `[ "$*" = "status --json" ] && printf '{\n  "ports": [\n    "port": 8080,\n    "port": 5353\n'` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "wslmirror"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// zsh completes only in an interactive shell on a terminal.
func TestZshCompletion(t *testing.T) {
	need(t, "zsh")
	publishing(t)
	run(t, "zsh", "-n", "completion/wslmirror.zsh")
	dir := t.TempDir()
	b, err := os.ReadFile("completion/wslmirror.zsh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "_wslmirror"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"wslmirror st":                     "wslmirror status ",
		"wslmirror run --path=d":           "wslmirror run --path=direct ",
		"wslmirror run --path d":           "wslmirror run --path direct ",
		"wslmirror run --user=roo":         "wslmirror run --user=root ",
		"wslmirror run --log-level wa":     "wslmirror run --log-level warning ",
		"wslmirror status --w":             "wslmirror status --watch ",
		"wslmirror ports ex":               "wslmirror ports explain ",
		"wslmirror ports fr":               "wslmirror ports free ",
		"wslmirror ports free --fr":        "wslmirror ports free --from=",
		"wslmirror ports explain 80":       "wslmirror ports explain 8080 ",
		"wslmirror doctor --bundle _w":     "wslmirror doctor --bundle _w",
		"wslmirror log --since=to":         "wslmirror log --since=today ",
		"wslmirror doctor --bundle=x --js": "wslmirror doctor --bundle=x --js",
		"wslmirror help doc":               "wslmirror help doctor ",
	} {
		// After the completion, a key prints the resulting line.
		out := run(t, "zsh", "-fc", `
			zmodload zsh/zpty
			zpty shell zsh -f -i
			zpty -w shell "PS1= PS2= RPS1=; unsetopt zle_bracketed_paste beep prompt_cr prompt_sp; fpath=($1 \$fpath); cd $1; autoload -U compinit; compinit -D -u; show() { print -r -- \"LINE<\$BUFFER>\"; BUFFER=; zle accept-line }; zle -N show; bindkey '^X' show; print REA''DY"
			while zpty -r shell got && [[ $got != *READY* ]]; do :; done
			zpty -w -n shell "$2"$'\t\x18'
			while zpty -r shell got && [[ $got != *'LINE<'* ]]; do :; done
			print -r -- $got
			zpty -d shell`, "zsh", dir, line)
		_, got, _ := strings.Cut(out, "LINE<")
		if got, _, _ := strings.Cut(got, ">"); got != want {
			t.Errorf("%q completes to %q, want %q\n%q", line, got, want, out)
		}
	}
}

func TestFishCompletion(t *testing.T) {
	need(t, "fish")
	publishing(t)
	run(t, "fish", "--no-execute", "completion/wslmirror.fish")
	for line, want := range map[string]string{
		"wslmirror st":                 "status\tShow the state",
		"wslmirror run --log-level wa": "warning\tLowest level of messages to log",
		"wslmirror ports ex":           "explain\tWho uses a port, or why it cannot be used",
		"wslmirror doctor --bu":        "--bundle\tWrite a new file for a bug report",
		"wslmirror run --interface lo": "lo\tWhere packets from Windows arrive",
		"wslmirror run --path=d":       "--path=direct\tThe path to a published port",
		"wslmirror status --w":         "--watch\tKeep running and show each change",
		"wslmirror run --us":           "--user\tThe user that the daemon runs as",
		"wslmirror ports fr":           "free\tThe next free ports",
		"wslmirror ports free --fr":    "--from\tThe first port to try",
		"wslmirror ports explain 80":   "8080\tA published port",
		"wslmirror log --since to":     "today\tStart at this time",
		"wslmirror help doc":           "doctor",
	} {
		out := run(t, "fish", "--no-config", "-c", `source completion/wslmirror.fish; complete -C $argv[1]`, line)
		if !slices.Contains(strings.Split(out, "\n"), want) {
			t.Errorf("%q completes to\n%s\nwant %q", line, out, want)
		}
	}
	for _, line := range []string{"wslmirror doctor --bundle w", "wslmirror doctor --bundle x --js"} {
		out := run(t, "fish", "--no-config", "-c", `source completion/wslmirror.fish; complete -C $argv[1]`, line)
		if out != "" {
			t.Errorf("%q completes to\n%s", line, out)
		}
	}
}
