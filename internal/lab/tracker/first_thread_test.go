package tracker_test

import (
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab/tracker"
)

// TestPortZero has the other threads.
func TestPortZeroOfFirstThread(t *testing.T) {
	for _, tc := range []struct {
		version   tracker.Version
		announced bool
	}{
		{tracker.Version{}, true},
		{tracker.Version{2, 9, 4}, true},
		{tracker.Version{2, 7, 1}, true},
		{tracker.Version{2, 7, 0}, false},
	} {
		b := newBench(t, tracker.Options{Version: tc.version})
		if err := b.WSL.Sysctl("ipv4/ip_local_port_range", "30000\t30010"); err != nil {
			t.Fatal(err)
		}
		if _, err := b.WSL.Run("perl", "-MSocket", "-e",
			`socket($s, PF_INET, SOCK_STREAM, 0) && bind($s, sockaddr_in(0, INADDR_ANY)) or die $!`); err != nil {
			t.Fatal(err)
		}
		advance(t, b, 0) // waits for the tracker's thread
		got := b.Tracker.Ports()
		if (len(got) == 1) != tc.announced {
			t.Errorf("%v: Windows knows %v, want %t", tc.version, got, tc.announced)
		}
	}
}
