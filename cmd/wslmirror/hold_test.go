package main

import (
	"bytes"
	"strings"
	"testing"
)

// What is wrong with the options ends "wslmirror hold" as it ends "run", and where it is
// off it ends well.
func TestHoldOptions(t *testing.T) {
	for _, test := range []struct {
		args, hold string
		code       int
		says       string
	}{
		{"hold", "false", exitOK, ""},
		{"hold", "perhaps", exitConfig, `WSLMIRROR_HOLD: "perhaps" is neither true nor false`},
		{"hold --log-level loud", "", exitConfig, `--log-level: "loud"`},
		{"hold 8080", "", exitConfig, `hold takes no argument "8080"`},
		{"hold --interface x", "", exitConfig, "hold has no flag --interface"},
		{"hold --help", "", exitOK, ""},
	} {
		t.Setenv(holdEnv, test.hold)
		var stdout, stderr bytes.Buffer
		if code := run(strings.Fields(test.args), &stdout, &stderr); code != test.code || !strings.Contains(stderr.String(), test.says) {
			t.Errorf("%s, %s=%s: exit %d, %s", test.args, holdEnv, test.hold, code, stderr.String())
		}
	}
}
