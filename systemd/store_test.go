package systemd

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The service manager receives the descriptor itself and its name, and is told not to poll
// it.
func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	n := NewNotifier()
	if err := n.Store("tcp-8080", int(file.Fd())); err != nil {
		t.Fatal(err)
	}
	manager.SetDeadline(time.Now().Add(time.Minute))
	text, rights := make([]byte, 100), make([]byte, 100)
	size, rightsSize, _, _, err := manager.ReadMsgUnix(text, rights)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(text[:size]), "FDSTORE=1\nFDPOLL=0\nFDNAME=tcp-8080"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rightsSize])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d control messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors %v, %v", fds, err)
	}
	got := os.NewFile(uintptr(fds[0]), "")
	defer got.Close()
	is, err := got.Stat()
	want, err2 := file.Stat()
	if err != nil || err2 != nil || !os.SameFile(is, want) {
		t.Errorf("sent another file: %v, %v", err, err2)
	}

	if err := n.Forget("tcp-8080"); err != nil {
		t.Fatal(err)
	}
	if size, err = manager.Read(text); err != nil || string(text[:size]) != "FDSTOREREMOVE=1\nFDNAME=tcp-8080" {
		t.Errorf("sent %q, %v", text[:size], err)
	}
	manager.Close()
	if err := n.Store("tcp-8080", int(file.Fd())); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
}
