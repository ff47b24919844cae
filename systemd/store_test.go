package systemd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
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

// A process owns what was stored for it, one descriptor for each name, and closes the
// others. Its children get none of them.
func TestStored(t *testing.T) {
	const child = "WSLMIRROR_TEST_STORED"
	if os.Getenv(child) != "" {
		kept := Stored()
		for _, name := range []string{"tcp-1", "udp-2"} {
			flags, err := unix.FcntlInt(uintptr(kept[name]), unix.F_GETFD, 0)
			var st unix.Stat_t
			if err == nil {
				err = unix.Fstat(kept[name], &st)
			}
			fmt.Printf("%s %d %t %v\n", name, st.Ino, flags&unix.FD_CLOEXEC != 0, err)
		}
		open := 0
		for fd := range 64 { // those of the memory files, which nothing else has
			var st unix.Stat_t
			if unix.Fstat(fd, &st) == nil && fmt.Sprint(st.Dev) == os.Getenv(child) {
				open++
			}
		}
		fmt.Printf("%d names, %d open, again %d, %q\n", len(kept), open, len(Stored()), os.Getenv("LISTEN_FDS"))
		os.Exit(0)
	}
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run=^TestStored$`, os.Args[0])
	var want string
	var dev uint64
	for i, name := range []string{"older", "tcp-1", "udp-2"} {
		fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), name)
		defer file.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		if dev = st.Dev; i > 0 {
			want += fmt.Sprintf("%s %d true <nil>\n", name, st.Ino)
		}
	}
	want += "2 names, 2 open, again 0, \"\"\n"
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", child, dev), "LISTEN_FDS=3", "LISTEN_FDNAMES=tcp-1:tcp-1:udp-2")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
		t.Errorf("get\n%s%v, want\n%s", out, err, want)
	}
}
