package netwatch_test

import (
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/netwatch"
)

// The mode at each stage while the link is added and removed.
func TestMode(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	conn := open(t, b.WSL)
	loopback0 := func() netwatch.Link {
		t.Helper()
		links, err := conn.Links()
		if err != nil {
			t.Fatal(err)
		}
		return netwatch.Find(links, "loopback0")
	}
	step := func(command string, want netwatch.Mode) {
		t.Helper()
		if _, err := b.WSL.Run("sh", "-c", command); err != nil {
			t.Fatal(err)
		}
		if got, err := conn.Mode(loopback0()); got != want || err != nil {
			t.Errorf("after %q: %q, %v, want %q", command, got, err, want)
		}
	}
	const lan = "ip route add 192.0.2.2 via 169.254.73.249 dev eth0 src 192.0.2.2 onlink table 128"
	step("ip route del table 128 192.0.2.2 || true", netwatch.Mirrored)
	step(lan, netwatch.MirroredHAL)
	step("ip route del table 128 192.0.2.2 && ip link set loopback0 down", netwatch.Mirrored)
	step("ip link set loopback0 address 00:11:22:33:44:55", netwatch.Consomme)
	step("ip link set loopback0 address 00:15:5d:00:00:00 && ip address add 169.254.73.250/28 dev loopback0", netwatch.Consomme)
	step("ip link set loopback0 up", netwatch.Consomme)

	gone := loopback0()
	if err := b.RemoveLoopback0(); err != nil {
		t.Fatal(err)
	}
	step("true", netwatch.NoMode)
	if got, err := conn.Mode(gone); got != netwatch.NoMode || err != nil {
		t.Errorf("a link that has just gone: %q, %v", got, err)
	}
	if err := b.AddLoopback0(); err != nil {
		t.Fatal(err)
	}
	step("true", netwatch.Mirrored)
}
