package main

import (
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/status"
)

// Only in the mode nat does Windows pass localhost on by itself, and none is mostly
// what is left of another mode that failed.
func TestAdviceOnModes(t *testing.T) {
	const byItself = "Windows passes localhost on by itself"
	for mode, want := range map[string]string{
		"nat": byItself, "none": "Linux has no network", "bridged": "nothing for wslmirror to\n  repair",
		"wsl1": "nothing for wslmirror", "consomme": "nothing for wslmirror", "": "probably not mirrored",
	} {
		got := advice(status.Snapshot{State: status.Stopped}, surroundings{wsl: true, mode: mode})
		if !strings.Contains(got, want) || strings.Contains(got, byItself) != (mode == "nat") {
			t.Errorf("%q: %s", mode, got)
		}
	}
}
