package lab_test

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// In mirrored mode a closed port of 127.0.0.1 hangs in Linux, and in Linux only.
func TestClosedPorts(t *testing.T) {
	const closed = "127.0.0.1:7999"
	b := labtest.New(t, lab.Options{})
	meets := func(when string, client *lab.Host, hang bool) {
		t.Helper()
		wait := patience
		if hang {
			wait = silence
		}
		_, err := client.Ask("tcp", closed, wait)
		var network net.Error
		if hang && !(errors.As(err, &network) && network.Timeout()) || !hang && !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %s meets %v", when, client.Name, err)
		}
	}
	for _, mode := range []lab.Mode{lab.Mirrored, lab.MirroredHAL, lab.Consomme, lab.Mirrored} {
		if err := b.SetMode(mode); err != nil {
			t.Fatal(err)
		}
		meets(mode.String(), b.WSL, mode != lab.Consomme)
		meets(mode.String(), b.Windows, false)
		for _, server := range []*lab.Host{b.WSL, b.Windows} {
			s, err := server.ServeEcho("tcp", closed)
			if err != nil {
				t.Fatal(err)
			}
			clients := []*lab.Host{b.WSL, b.Windows}
			if server == b.Windows {
				clients = clients[:1] // see the package's comment
			}
			for _, client := range clients {
				if got, err := client.Ask("tcp", closed, patience); err != nil || got != server.Name {
					t.Errorf("%s: %s meets %q, %v at %s", mode, client.Name, got, err, server.Name)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
