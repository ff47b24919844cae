package lab_test

import (
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
)

func TestScaled(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": time.Second, "4": 4 * time.Second, "1.5": 1500 * time.Millisecond, "0.1": time.Second, "-2": time.Second, "NaN": time.Second, "fast": time.Second,
	} {
		t.Setenv("WSLMIRROR_SLOW", value)
		if got := lab.Scaled(time.Second); got != want {
			t.Errorf("with %q: %v, want %v", value, got, want)
		}
	}
}
