package mirror

import (
	"fmt"
	"net"
	"os"
	"testing"
)

// Only who still waits counts: those who have gone are in the backlog, too.
func TestBeaconIsWatched(t *testing.T) {
	addr := &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("@wslmirror-test-%d", os.Getpid())}
	l, err := net.ListenUnix("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	b := &beacon{listener: l}
	defer b.close()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.DialUnix("unix", nil, addr)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if b.watched() {
		t.Error("nobody was there, and it is watched")
	}
	for range 3 {
		dial().Close()
	}
	if b.watched() {
		t.Error("all have gone, and it is watched")
	}
	dial().Close()
	stays := dial()
	defer stays.Close()
	for range 2 {
		if !b.watched() {
			t.Error("one waits, and it is not watched")
		}
	}
}
