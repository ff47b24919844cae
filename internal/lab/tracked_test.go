package lab_test

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/tracker"
)

func knows(b *lab.Bench, number uint16) bool {
	return slices.Contains(b.Tracker.Ports(), tracker.Port{Proto: unix.IPPROTO_TCP, Number: number})
}

// The tracker has the mode of the bench: only mirrored has a block of ports of which
// Windows is not asked, and only consomme leaves [::1] out.
func TestTrackerHasTheMode(t *testing.T) {
	for _, mode := range []lab.Mode{lab.Mirrored, lab.Consomme} {
		b := labtest.New(t, lab.Options{Mode: mode, Tracker: &tracker.Options{}})
		for family, addr := range map[int]unix.Sockaddr{
			unix.AF_INET:  &unix.SockaddrInet4{Port: int(b.LastPort)},
			unix.AF_INET6: &unix.SockaddrInet6{Port: 8001, Addr: [16]byte{15: 1}},
		} {
			var fd int
			err := b.WSL.Do(func() (err error) {
				if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
					return err
				}
				return unix.Bind(fd, addr)
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
		}
		if got, want := knows(b, b.LastPort), mode == lab.Consomme; got != want {
			t.Errorf("%s: port %d of the source ports is known to Windows: %v", mode, b.LastPort, got)
		}
		if got, want := knows(b, 8001), mode == lab.Mirrored; got != want {
			t.Errorf("%s: the port of [::1] is known to Windows: %v", mode, got)
		}
	}
}

// Windows hears of a port that Podman's own program holds, and not of what was not
// published.
func TestTrackerHearsPodman(t *testing.T) {
	labtest.NeedTree(t)
	b := labtest.New(t, lab.Options{Tracker: &tracker.Options{}})
	podman := labtest.StartEngine(t, b, "podman-netavark")
	labtest.RunContainer(t, podman, "web", "8080:80/tcp")
	if !knows(b, 8080) || knows(b, 80) {
		t.Errorf("Windows knows %v, want 8080/tcp", b.Tracker.Ports())
	}
	if got, err := b.Windows.Ask("tcp", "127.0.0.1:8080", patience); err != nil || got != "web" {
		t.Errorf("Windows meets %q, %v", got, err)
	}
	if err := podman.Remove("web"); err != nil {
		t.Fatal(err)
	}
	if err := b.Tracker.Poll(); err != nil {
		t.Fatal(err)
	}
	if knows(b, 8080) {
		t.Error("Windows keeps the port of a container that has gone")
	}
}
