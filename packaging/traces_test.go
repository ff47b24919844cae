package packaging

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// traces returns the state of everything in which the package could leave something.
func traces(s service) map[string]string {
	s.tb.Helper()
	found := make(map[string]string)
	for what, cmd := range map[string]string{
		"kernel: ruleset": "nft --stateless list ruleset",
		"kernel: rules":   "ip -4 rule; ip -6 rule",
		"kernel: routes":  "ip -4 route show table all", // those of IPv6 change by themselves
		// A counter is not a setting.
		"kernel: sysctls": "sysctl --all --pattern '^net' | grep --invert-match nf_conntrack_count",
		"systemd: units":  "systemctl list-units --all --plain --no-legend 'wslmirror*'; systemctl list-unit-files --no-legend 'wslmirror*' || true",
		// What dpkg, the journal and systemd keep about every package is not ours.
		"files": `find / /run /tmp /sys/fs/cgroup -xdev ! -path '/var/log/*' ! -path '/run/log/*' \
			! -path '/run/docker/*' ! -path '/var/lib/dpkg/*-old' ! -path /run/systemd/dynamic-uid | sort`,
	} {
		found[what] = s.run("sh", "-ec", cmd)
	}
	return found
}

// sameKernel compares what traces found in the kernel.
func sameKernel(t *testing.T, before, after map[string]string) {
	t.Helper()
	for what, want := range before {
		if got := after[what]; strings.HasPrefix(what, "kernel: ") && got != want {
			t.Errorf("%s, before\n%s\nand after\n%s", what, want, got)
		}
	}
}

// difference returns the lines that only one of two sorted texts contains.
func difference(before, after string) string {
	var d strings.Builder
	b, a := strings.Split(before, "\n"), strings.Split(after, "\n")
	for sign, lines := range map[string][2][]string{"-": {b, a}, "+": {a, b}} {
		for _, line := range lines[0] {
			if !slices.Contains(lines[1], line) {
				fmt.Fprintf(&d, "%s %s\n", sign, line)
			}
		}
	}
	return d.String()
}
