package tracker_test

import (
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/tracker"
)

// Nobody binds a port that a rule alone publishes, so Windows does not hear of it.
func TestDNATAlone(t *testing.T) {
	b := newBench(t, tracker.Options{})
	if _, err := b.WSL.ServeEcho("tcp", "0.0.0.0:8001"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WSL.Run("nft", `table ip publish {
	chain output {
		type nat hook output priority -100
		tcp dport 8000 dnat to 192.0.2.2:8001
	}
}`); err != nil {
		t.Fatal(err)
	}
	if got, err := b.WSL.Ask("tcp", "192.0.2.2:8000", labtest.Patience()); err != nil || got != "WSL" {
		t.Fatalf("the rule does not publish the port: %q, %v", got, err)
	}
	advance(t, b, 0)
	knows(t, b, port("tcp", 8001), true)
	knows(t, b, port("tcp", 8000), false)
}
