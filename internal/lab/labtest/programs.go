package labtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Programs makes a folder with programs and puts it in front of PATH. A content
// without "#!" or "MZ" at its beginning is a shell script.
func Programs(tb testing.TB, programs map[string]string) {
	tb.Helper()
	dir := tb.TempDir()
	for name, content := range programs {
		if !strings.HasPrefix(content, "#!") && !strings.HasPrefix(content, "MZ") {
			content = "#!/bin/sh\n" + content + "\n"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// PlayWindows makes the machine look like WSL in mirrored mode, with a Windows whose
// language is "en", "ja" or "ko": stand-ins for netsh.exe, netstat.exe and wslinfo print
// what was recorded. WSL_VERSION changes the version of WSL.
func PlayWindows(tb testing.TB, language string) {
	tb.Helper()
	recorded := func(file string) string { return Recorded(tb, "internal/windows", file) }
	Programs(tb, map[string]string{
		"netsh.exe": `case "$*" in
"int ipv4 show excludedportrange protocol=tcp") cat ` + recorded("excluded."+language) + ` ;;
"int ipv4 show excludedportrange protocol=udp") cat ` + recorded("excluded.none") + ` ;;
"int ipv4 show dynamicportrange protocol="*) cat ` + recorded("dynamic."+language) + ` ;;
*) echo "unexpected: $*"; exit 1 ;;
esac`,
		"netstat.exe": `case "$*" in
"-ano -p tcp") cat ` + recorded("netstat."+language) + ` ;;
"-ano -p udp") cat ` + recorded("netstat.udp") + ` ;;
*) exit 1 ;;
esac`,
		"wslinfo": "[ $1 = --networking-mode ] && echo mirrored || echo ${WSL_VERSION:-2.9.5.0}",
	})
}

// WantAll fails the test for each of want that is not in text.
func WantAll(tb testing.TB, text string, want ...string) {
	tb.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			tb.Errorf("does not say %q:\n%s", w, text)
		}
	}
}
