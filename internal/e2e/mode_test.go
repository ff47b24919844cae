package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// inConsomme makes a bench what WSL makes of its network in consomme.
func inConsomme(t *testing.T) *lab.Bench {
	t.Helper()
	b := labtest.New(t, lab.Options{})
	const script = `ip address add 169.254.73.250/28 dev loopback0
ip route flush table 128 || true
ip rule del pref 0 iif eth0 ipproto tcp; ip rule del pref 0 iif eth0 ipproto udp
nft flush ruleset
echo 32768 60999 >/proc/sys/net/ipv4/ip_local_port_range`
	if _, err := b.WSL.Run("sh", "-ec", script); err != nil {
		t.Fatal(err)
	}
	return b
}

// In consomme nothing of mirrored mode is missed or advised, whatever wslinfo says.
func TestConsomme(t *testing.T) {
	for name, wslinfo := range map[string]string{
		"answers": "echo consomme", "absent": "", "hangs": "exec sleep 1000", "lies": "echo mirrored", "lies of nat": "echo nat",
	} {
		t.Run(name, func(t *testing.T) {
			if wslinfo != "" {
				labtest.Programs(t, map[string]string{"wslinfo": wslinfo})
			}
			b := inConsomme(t)
			d := start(t, b.WSL)
			if s := d.awaitState(status.Active); s.Mode != "consomme" {
				t.Errorf("the daemon says %q", s.Mode)
			}
			if _, err := b.WSL.ServeEcho("tcp", "0.0.0.0:9000"); err != nil {
				t.Fatal(err)
			}
			code, text := on(t, b.WSL, "status", "--runtime-dir", d.dir)
			if code != exitOK || !strings.Contains(text, "consomme") {
				t.Errorf("status: exit %d\n%s", code, text)
			}
			_, text = on(t, b.WSL, "ports", "--json", "--runtime-dir", d.dir)
			var got struct {
				Mode             string
				Mirrored, Shared bool
				Listeners        []struct {
					Port    int
					Windows string
				}
			}
			if err := json.Unmarshal([]byte(text), &got); err != nil || got.Mode != "consomme" || got.Mirrored || !got.Shared ||
				len(got.Listeners) != 1 || got.Listeners[0].Windows != "localhost" {
				t.Errorf("ports: %v, %+v", err, got)
			}
			diagnosis := diagnose(t, b.WSL, d.dir)
			diagnosis.expect(t, "in consomme")
			for _, check := range []string{"wsl-chains", "port-range", "table-128", "container-to-windows", "nics", "unsent-ports"} {
				diagnosis.sees(t, check, doctor.NotApplicable, "")
			}
			for _, c := range diagnosis.Checks {
				if all := c.Seen + c.Why + c.Do; strings.Contains(all, "hostAddressLoopback") || strings.Contains(all, "WSLOUTPUT") {
					t.Errorf("%+v", c)
				}
			}

			_, text = on(t, b.WSL, "status", "--runtime-dir", t.TempDir())
			if !strings.Contains(text, "networking mode consomme") || strings.Contains(text, "nothing for wslmirror") {
				t.Errorf("status without a daemon:\n%s", text)
			}
		})
	}
}
