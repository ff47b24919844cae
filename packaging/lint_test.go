package packaging

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/systemd"
)

func TestLintian(t *testing.T) {
	need(t, "lintian")
	debs, err := filepath.Glob(filepath.Join(packages(t, dist), "*.deb"))
	if err != nil || len(debs) != 2 {
		t.Fatalf("debs: %q, %v", debs, err)
	}
	// Debian 12's lintian has no option to suppress its warning about root.
	out := runEnv(t, []string{"LC_ALL=C"}, "lintian", append([]string{
		"--pedantic", "--display-info", "--fail-on", "error,warning,info,pedantic"}, debs...)...)
	if out := strings.TrimPrefix(out, "running with root privileges is not recommended!\n"); out != "" {
		t.Errorf("lintian says:\n%s", out)
	}
}

func TestRpmlint(t *testing.T) {
	need(t, "rpmlint")
	rpms, err := filepath.Glob(filepath.Join(packages(t, dist), "*.rpm"))
	if err != nil || len(rpms) != 2 {
		t.Fatalf("rpms: %q, %v", rpms, err)
	}
	out := run(t, "rpmlint", append([]string{"--strict", "--config", "lint/rpmlint.toml"}, rpms...)...)
	if !strings.Contains(out, "2 packages and 0 specfiles checked; 0 errors, 0 warnings") {
		t.Errorf("rpmlint says:\n%s", out)
	}
}

// systemd understands every word of the units, and the units restrict the services as much
// as they promise: at most 1.1 on the scale of systemd-analyze from 0 to 10, and 1.3 for
// the holder, which has internet sockets.
func TestUnit(t *testing.T) {
	need(t, "systemd-analyze", "dpkg-deb")
	tree := t.TempDir()
	run(t, "dpkg-deb", "--extract", pkg(t, packages(t, dist), "deb"), tree)

	// The targets that every unit depends on.
	found := 0
	for _, dir := range []string{"/lib/systemd/system", "/usr/lib/systemd/system"} {
		targets, _ := filepath.Glob(filepath.Join(dir, "*.target"))
		for _, target := range targets {
			b, err := os.ReadFile(target)
			if err != nil {
				continue // a link to a unit that is not installed
			}
			err = os.WriteFile(filepath.Join(tree, "usr/lib/systemd/system", filepath.Base(target)), b, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			found++
		}
	}
	if found == 0 {
		unable(t, "systemd is not installed")
	}

	// Not the manual: systemd-analyze would look for it on this machine.
	for unit, threshold := range map[string]string{"wslmirror.service": "11", "wslmirror-hold.service": "13"} {
		if out := run(t, "systemd-analyze", "verify", "--man=no", "--root="+tree, unit); out != "" {
			t.Errorf("systemd-analyze verify says:\n%s", out)
		}
		out := run(t, "systemd-analyze", "security", "--offline=true", "--threshold="+threshold,
			"--root="+tree, "--no-pager", unit)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		t.Log(lines[len(lines)-1])
	}
}

// systemd 239 knows every directive, or a comment in the unit says since which version it
// does, according to systemd's NEWS.
func TestUnitOnOldSystemd(t *testing.T) {
	b, err := os.ReadFile("../systemd/wslmirror.service")
	if err != nil {
		t.Fatal(err)
	}
	known := strings.Fields(`Description Documentation ConditionVirtualization ConditionPathExists ConditionCapability
		Wants After Before StartLimitIntervalSec Type Environment EnvironmentFile ExecStart ExecStopPost Restart RestartSec
		RestartPreventExitStatus WatchdogSec TimeoutStartSec TimeoutStopSec RuntimeDirectory RuntimeDirectoryMode UMask DynamicUser
		AmbientCapabilities CapabilityBoundingSet NoNewPrivileges LockPersonality KeyringMode RestrictAddressFamilies
		IPAddressDeny ProtectSystem ProtectHome PrivateTmp PrivateDevices DevicePolicy PrivateMounts InaccessiblePaths
		RemoveIPC ProtectKernelTunables ProtectKernelModules ProtectControlGroups RestrictNamespaces RestrictRealtime
		SystemCallArchitectures SystemCallFilter SystemCallErrorNumber MemoryDenyWriteExecute WantedBy`)
	_, comment, _ := strings.Cut(string(b), "\n# Of what follows, ")
	comment, _, _ = strings.Cut(comment, "\n\n")
	for _, m := range regexp.MustCompile(`(?m)^(\w+)=`).FindAllStringSubmatch(string(b), -1) {
		if !slices.Contains(known, m[1]) && !strings.Contains(comment, " "+m[1]+"=") {
			t.Errorf("look into systemd's NEWS since which version it knows %s=", m[1])
		}
	}
}

// A later directive must not give back what an earlier one takes away, nor must one that
// systemd-analyze does not rate.
func TestUnitPrivileges(t *testing.T) {
	daemon, holder := directives(systemd.Unit), directives(systemd.HoldUnit)
	for key, want := range map[string][]string{
		"AmbientCapabilities":     {"CAP_NET_ADMIN"},
		"CapabilityBoundingSet":   {"CAP_NET_ADMIN"},
		"RestrictAddressFamilies": {"AF_NETLINK AF_UNIX"},
		"ExecStart":               {"/usr/bin/wslmirror run $WSLMIRROR_OPTS"},
		"ExecStopPost":            {"/usr/bin/wslmirror cleanup"},
		// systemd always restarts it, except with wrong options.
		"Restart":                  {"always"},
		"RestartPreventExitStatus": {"78"},
		// With these, other users could not read the state.
		"RuntimeDirectoryPreserve": nil,
		"User":                     nil,
	} {
		if !slices.Equal(daemon[key], want) {
			t.Errorf("%s=%q, want %q", key, daemon[key], want)
		}
	}
	for key, want := range map[string][]string{
		"AmbientCapabilities":     {"CAP_NET_BIND_SERVICE"},
		"CapabilityBoundingSet":   {"CAP_NET_BIND_SERVICE"},
		"RestrictAddressFamilies": {"AF_NETLINK AF_UNIX AF_INET AF_INET6"},
		"IPAddressDeny":           {"any"},
		"IPAddressAllow":          {"localhost"},
		"ExecStart":               {"/usr/bin/wslmirror hold"},
		"User":                    nil,
	} {
		if !slices.Equal(holder[key], want) {
			t.Errorf("of the holder: %s=%q, want %q", key, holder[key], want)
		}
	}
	// All other restrictions are the same in both.
	for key, want := range daemon {
		if strings.HasPrefix(key, "Protect") || strings.HasPrefix(key, "Private") || strings.HasPrefix(key, "SystemCall") ||
			slices.Contains([]string{"DynamicUser", "NoNewPrivileges", "RestrictSUIDSGID", "RestrictNamespaces", "RestrictRealtime", "MemoryDenyWriteExecute", "LockPersonality", "InaccessiblePaths", "DevicePolicy", "ProcSubset", "RemoveIPC", "KeyringMode", "UMask"}, key) {
			if !slices.Equal(holder[key], want) {
				t.Errorf("%s is %q for the daemon and %q for the holder", key, want, holder[key])
			}
		}
	}
}

// directives returns the settings of a unit, by name.
func directives(unit string) map[string][]string {
	got := map[string][]string{}
	for line := range strings.Lines(unit) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			got[key] = append(got[key], value)
		}
	}
	return got
}
