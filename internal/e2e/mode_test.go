package e2e

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// The kernel tells the mode, whatever wslinfo says. Nothing that belongs to another mode is
// reported missing or suggested.
func TestModes(t *testing.T) {
	lies := map[lab.Mode]string{lab.Mirrored: "consomme", lab.MirroredHAL: "consomme", lab.Consomme: "mirrored"}
	truth := map[lab.Mode]string{lab.Mirrored: "mirrored", lab.MirroredHAL: "mirrored", lab.Consomme: "consomme"}
	for _, mode := range lab.Modes {
		for name, wslinfo := range map[string]string{
			"answers": "echo " + truth[mode], "absent": "", "hangs": "exec sleep 1000",
			"lies": "echo " + lies[mode], "lies of nat": "echo nat",
		} {
			t.Run(mode.String()+"/"+name, func(t *testing.T) {
				if wslinfo != "" {
					labtest.Programs(t, map[string]string{"wslinfo": wslinfo})
				}
				testMode(t, mode, wslinfo != "")
			})
		}
	}
}

func testMode(t *testing.T, mode lab.Mode, isWSL bool) {
	b := labtest.New(t, lab.Options{Mode: mode})
	d := start(t, b.WSL)
	if s := d.awaitState(status.Active); s.Mode != mode.String() {
		t.Errorf("the daemon says %q", s.Mode)
	}
	if _, err := b.WSL.ServeEcho("tcp", "0.0.0.0:9000"); err != nil {
		t.Fatal(err)
	}
	publishes(t, b, d)
	words := map[lab.Mode]string{
		lab.Mirrored: "mirrored", lab.MirroredHAL: "mirrored with hostAddressLoopback", lab.Consomme: "consomme",
	}
	code, text := on(t, b.WSL, "status", "--runtime-dir", d.dir)
	if line := regexp.MustCompile(`(?m)^  mode +(.*)$`).FindStringSubmatch(text); code != exitOK || line == nil || line[1] != words[mode] {
		t.Errorf("status: exit %d\n%s", code, text)
	}

	_, text = on(t, b.WSL, "ports", "--json", "--runtime-dir", d.dir)
	labtest.WantValid(t, "ports", []byte(text))
	type listener struct {
		Port        int
		FromWindows string `json:"from_windows"`
	}
	var got struct {
		Mode             string
		Mirrored, Shared bool
		Listeners        []listener
		Block            struct{ Size int }
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil || got.Mode != mode.String() || got.Mirrored != (mode != lab.Consomme) || !got.Shared ||
		(got.Block.Size == 300) != got.Mirrored {
		t.Errorf("ports: %v, %+v\n%s", err, got, text)
	}

	i := slices.IndexFunc(got.Listeners, func(l listener) bool { return l.Port == 9000 })
	if i < 0 || got.Listeners[i].FromWindows != "localhost" {
		t.Errorf("ports: %+v", got.Listeners)
	}

	diagnosis := diagnose(t, b.WSL, d.dir)
	diagnosis.expect(t, "in "+mode.String())
	if isWSL {
		diagnosis.sees(t, "wsl", doctor.OK, words[mode])
	}
	notApplicable := map[lab.Mode][]string{
		lab.Consomme: {"wsl-chains", "port-range", "table-128", "nics", "unsent-ports"},
	}[mode]
	for _, check := range []string{"wsl-chains", "port-range", "table-128", "container-to-windows", "nics", "unsent-ports"} {
		want := doctor.OK
		if slices.Contains(notApplicable, check) {
			want = doctor.NotApplicable
		}
		diagnosis.sees(t, check, want, "")
	}
	unsaid := map[lab.Mode][]string{
		lab.Mirrored:    {"hostAddressLoopback is on"},
		lab.MirroredHAL: {"hostAddressLoopback is off", "hostAddressLoopback=true"},
		lab.Consomme:    {"hostAddressLoopback", "WSLOUTPUT", "WSLPOSTROUTING"},
	}[mode]
	for _, c := range diagnosis.Checks {
		for _, word := range unsaid {
			if strings.Contains(c.Seen+c.Why+c.Do, word) {
				t.Errorf("says %q: %+v", word, c)
			}
		}
	}

	d.stop(unix.SIGTERM)
	_, text = on(t, b.WSL, "status", "--runtime-dir", t.TempDir())
	if !strings.Contains(strings.Join(strings.Fields(text), " "), "networking mode "+words[mode]) || strings.Contains(text, "nothing for wslmirror") {
		t.Errorf("status without a daemon:\n%s", text)
	}
}
