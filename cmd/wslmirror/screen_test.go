package main

import (
	"strings"
	"testing"
)

func TestLocale(t *testing.T) {
	for _, test := range []struct {
		all, ctype, lang string
		utf8             bool
	}{
		{"", "", "C.UTF-8", true},
		{"", "de_DE.utf8", "C", true},
		{"C", "C.UTF-8", "C.UTF-8", false},
		{"", "POSIX", "C.UTF-8", false},
		{"", "", "", false},
	} {
		t.Setenv("LC_ALL", test.all)
		t.Setenv("LC_CTYPE", test.ctype)
		t.Setenv("LANG", test.lang)
		if got := utf8Locale(); got != test.utf8 {
			t.Errorf("%+v: %v", test, got)
		}
		_, stdout, _ := call("status", "--runtime-dir", t.TempDir())
		if want := map[bool]string{true: "○ stopped", false: "[ ] stopped"}[test.utf8]; !strings.HasPrefix(stdout, want) {
			t.Errorf("%+v: %s", test, stdout)
		}
	}
}

// The directory of a daemon need not be typed again and again.
func TestRuntimeDirOfTheEnvironment(t *testing.T) {
	dir := newStage(t, watched).dir
	t.Setenv("WSLMIRROR_RUNTIME_DIR", dir)
	if code, stdout, _ := call("status"); code != exitOK || !strings.Contains(stdout, "active") {
		t.Errorf("status: exit %d, %s", code, stdout)
	}
	if code, _, _ := call("status", "--runtime-dir", t.TempDir()); code != exitNotActive {
		t.Errorf("what is typed does not count: exit %d", code)
	}
	if o, err := parseRun(nil); err != nil || o.dir != dir {
		t.Errorf("run: %q, %v", o.dir, err)
	}
}
