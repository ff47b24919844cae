package confine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// probe is the directory for a process that drops its privileges and then tries what it
// must not be able to do.
const probe = "WSLMIRROR_TEST_PROBE"

func TestMain(m *testing.M) {
	dir := os.Getenv(probe)
	switch {
	case dir == "":
		os.Exit(m.Run())
	case os.Geteuid() == 0:
		u, err := Lookup("nobody")
		if err == nil {
			err = Exec(u, dir, os.Args)
		}
		fmt.Println("exec:", err)
		os.Exit(1)
	}
	try(dir)
}

// try prints the result of each attempt.
func try(dir string) {
	socket := func(family, kind, protocol int) error {
		fd, err := unix.Socket(family, kind, protocol)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	read := func(path string) error {
		_, err := os.ReadDir(path)
		return err
	}
	comm, _ := os.ReadFile("/proc/self/comm")
	cwd, _ := os.Getwd()
	_, connectErr := net.Dial("tcp", "127.0.0.1:1")
	for _, attempt := range []struct {
		what string
		err  error
	}{
		{"write to the directory", os.WriteFile(filepath.Join(dir, "file"), nil, 0o644)},
		{"write elsewhere", os.WriteFile("/tmp/wslmirror-test-elsewhere", nil, 0o644)},
		{"list the drives", read("/mnt")},
		{"list the file system", read("/")},
		{"unix socket", socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)},
		{"netlink socket", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)},
		{"internet socket", socket(unix.AF_INET, unix.SOCK_STREAM, 0)},
		{"packet socket", socket(unix.AF_PACKET, unix.SOCK_RAW, 0)},
		{"connect", connectErr},
		{"become root", unix.Setresuid(0, 0, 0)},
		{"mount", unix.Mount("tmpfs", dir, "tmpfs", 0, "")},
		{"be nicer", unix.Setpriority(unix.PRIO_PROCESS, 0, 1)},
		{"have a name", errors.New(strings.TrimSpace(string(comm)))},
		{"be somewhere", errors.New(cwd)},
		{"variable", errors.New("[" + os.Getenv(variable) + "]")},
	} {
		fmt.Printf("%s: %v\n", attempt.what, attempt.err)
	}
	status, _ := os.ReadFile("/proc/self/status")
	fmt.Printf("\n%s", labtest.Rights(string(status)))
	os.Exit(0)
}

// probing returns a command that runs this test program as a probe, from a copy in a
// directory that only root may enter.
func probing(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	labtest.NeedRoot(t)
	private := filepath.Join(t.TempDir(), "private")
	b, err := os.ReadFile("/proc/self/exe")
	if err := errors.Join(err, os.Mkdir(private, 0o700), os.WriteFile(filepath.Join(private, "prober"), b, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(private, "prober"))
	cmd.Dir = private
	cmd.Env = append(os.Environ(), probe+"="+dir)
	return cmd
}

func TestExec(t *testing.T) {
	top, err := os.MkdirTemp("", "wslmirror-confine-") // only root may enter the parent of t.TempDir
	if err == nil {
		err = os.Chmod(top, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	dir := filepath.Join(top, "run", "wslmirror")
	for _, when := range []string{"first", "again"} {
		cmd := probing(t, dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", when, err, out)
		}
		got, rights, _ := strings.Cut(string(out), "\n\n")
		const want = `write to the directory: <nil>
write elsewhere: open /tmp/wslmirror-test-elsewhere: read-only file system
list the drives: open /mnt: permission denied
list the file system: <nil>
unix socket: <nil>
netlink socket: <nil>
internet socket: address family not supported by protocol
packet socket: address family not supported by protocol
connect: dial tcp 127.0.0.1:1: socket: address family not supported by protocol
become root: operation not permitted
mount: operation not permitted
be nicer: operation not permitted
have a name: prober
be somewhere: /
variable: []`
		if got != want {
			t.Errorf("%s: it says\n%s\nwant\n%s", when, got, want)
		}
		if rights != labtest.Filtered {
			t.Errorf("%s: its rights are\n%s\nwant\n%s", when, rights, labtest.Filtered)
		}
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the directory is %v, %v", info, err)
	}
}

// Exec does not take over a directory of another user.
func TestExecTakesNoDirectory(t *testing.T) {
	dir := t.TempDir()
	out, err := probing(t, dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "exec: "+dir+" belongs to another user") {
		t.Errorf("%v: %s", err, out)
	}
}

// Without access to the directory, the daemon could publish nothing.
func TestExecNeedsTheDirectory(t *testing.T) {
	private := filepath.Join(t.TempDir(), "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(private, "run")
	out, err := probing(t, dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "exec: as an ordinary user, open "+dir+": permission denied") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestLookup(t *testing.T) {
	for name, want := range map[string]User{"root": {0, 0}, "0": {0, 0}, "nobody": {65534, 65534}, "65534": {65534, 65534}, "61999": {61999, 61999}} {
		if got, err := Lookup(name); err != nil || got != want {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "-1", "no such user", "99999999999"} {
		if got, err := Lookup(name); err == nil {
			t.Errorf("%q is %v", name, got)
		}
	}
}
