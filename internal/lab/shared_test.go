package lab_test

import (
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// In mirrored-hal, and in no other mode, plain servers of Linux and of Windows answer on
// the LAN address that both have. A neighbour reaches those of Linux in each mode.
func TestSharedAddress(t *testing.T) {
	const ofLinux, ofWindows, closed = "192.0.2.2:9000", "192.0.2.2:9001", "192.0.2.2:9002"
	b := labtest.New(t, lab.Options{Mode: lab.MirroredHAL})
	serve(t, b.WSL, ofLinux)
	check := func(mode lab.Mode) {
		t.Helper()
		expect(t, b.WSL, ofLinux, "WSL")
		expect(t, b.LAN, ofLinux, "WSL")
		links, err := b.Windows.Run("ip", "-o", "addr")
		if err != nil {
			t.Fatal(err)
		}
		if has := strings.Contains(links, "192.0.2.2"); has != (mode == lab.MirroredHAL) {
			t.Fatalf("%s: Windows has the addresses\n%s", mode, links)
		}
		if mode != lab.MirroredHAL {
			return
		}
		expect(t, b.Windows, ofLinux, "WSL")
		for _, proto := range protos {
			s, err := b.Windows.ServeEcho(proto, ofWindows)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
		}
		expect(t, b.WSL, ofWindows, "Windows")
		for _, client := range []*lab.Host{b.WSL, b.Windows} {
			if answer, err := client.Ask("tcp", closed, patience); err == nil || !strings.Contains(err.Error(), "refused") {
				t.Errorf("%s meets %q, %v at a closed port", client.Name, answer, err)
			}
		}
	}
	check(lab.MirroredHAL)
	for _, mode := range []lab.Mode{lab.Mirrored, lab.Consomme, lab.MirroredHAL} {
		if err := b.SetMode(mode); err != nil {
			t.Fatal(err)
		}
		check(mode)
	}
}

// The way to the shared address is that of the field: from Windows a packet arrives on
// eth0 with the same address twice (github.com/microsoft/WSL/issues/13013), and the
// reply leaves through eth0.
func TestSharedAddressOnTheWire(t *testing.T) {
	b := labtest.New(t, lab.Options{Mode: lab.MirroredHAL})
	serve(t, b.WSL, "192.0.2.2:9000")
	c, err := b.Windows.Dial("tcp", "", "192.0.2.2:9000", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	out, err := b.WSL.Run("ss", "-tnH", "state", "established", "sport", "=", ":9000")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out, "192.0.2.2:"); n != 2 {
		t.Errorf("the connection has not the shared address twice: %s", out)
	}
	route, err := b.WSL.Run("ip", "route", "get", "192.0.2.2", "from", "192.0.2.2", "ipproto", "tcp")
	if err != nil || !strings.Contains(route, "dev eth0 table 128") {
		t.Errorf("replies to Windows: %s, error %v", route, err)
	}
}
