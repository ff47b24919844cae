package main

import (
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/status"
)

// Only in the mode nat does Windows forward localhost itself, and none is mostly
// what is left of another mode that failed.
func TestAdviceOnModes(t *testing.T) {
	const byItself = "Windows forwards localhost itself"
	for mode, want := range map[string]string{
		"nat": byItself, "none": "Linux has no network", "bridged": "nothing for wslmirror to\n  repair",
		"wsl1": "nothing for wslmirror", "consomme": "localhostForwarding=false", "virtioproxy": "localhostForwarding=false", "": "probably none that shares localhost",
	} {
		got := advice(status.Snapshot{State: status.Stopped}, surroundings{wsl: true, mode: mode})
		if !strings.Contains(got, want) || strings.Contains(got, byItself) != (mode == "nat") {
			t.Errorf("%q: %s", mode, got)
		}
	}
}

// A mistyped --interface: what is missing is not WSL's link, and to end WSL would
// change nothing.
func TestAdviceOnTheWrongInterface(t *testing.T) {
	s := status.Snapshot{State: status.Waiting, Interface: status.Interface{Name: "loopbakc0\x1b"}}
	for name, here := range map[string]surroundings{
		"mirrored": {wsl: true, mode: "mirrored", systemd: true, wslLink: true},
		"unknown":  {wslLink: true},
	} {
		got := advice(s, here)
		for _, want := range []string{"waits for loopbakc0?,", "WSL's link is loopback0", "--interface", "/etc/default/wslmirror", "systemctl restart wslmirror"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: there is no %q in %q", name, want, got)
			}
		}
		if strings.Contains(got, "--shutdown") {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := advice(s, surroundings{wsl: true, mode: "mirrored", systemd: true}); !strings.Contains(got, "no loopback0") {
		t.Errorf("where loopback0 is missing, too: %q", got)
	}
}
