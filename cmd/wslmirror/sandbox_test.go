package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// The sandbox that systemd makes of the unit, as far as it is rights and system
// calls: a user without a name, one capability, the unit's filters. What is about
// files is tested where systemd itself makes it, in the package packaging.

// inSandbox makes the test binary put itself under a filter of system calls, which
// is the value, and then be the program that its arguments name.
const inSandbox = "WSLMIRROR_TEST_FILTER"

// nobody is the user of a daemon.
const nobody = 65534

// A filter is a program of classic BPF, as seccomp(2) takes it.
type filter []unix.SockFilter

// Offsets in struct seccomp_data.
const (
	callAt     = 0
	firstArgAt = 16
)

func (f *filter) load(at uint32) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at})
}

// answer ends the filter with action where the loaded value is k.
func (f *filter) answer(k int, action uint32) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(k), Jf: 1})
	f.end(action)
}

func (f *filter) end(action uint32) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action})
}

func (f filter) String() string {
	var s strings.Builder
	for _, i := range f {
		fmt.Fprintf(&s, "%d,%d,%d,%d ", i.Code, i.Jt, i.Jf, i.K)
	}
	return s.String()
}

func parseFilter(s string) (f filter) {
	for _, field := range strings.Fields(s) {
		var i unix.SockFilter
		fmt.Sscanf(field, "%d,%d,%d,%d", &i.Code, &i.Jt, &i.Jf, &i.K)
		f = append(f, i)
	}
	return f
}

// install puts the calling thread under the filter, and all that it becomes. The
// descriptor of a filter that asks a supervisor is open until then.
func (f filter) install() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	flags := 0
	for _, i := range f {
		if i.Code == unix.BPF_RET|unix.BPF_K && i.K == unix.SECCOMP_RET_USER_NOTIF {
			flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
		}
	}
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	if _, _, err := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&prog))); err != 0 {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

// enterSandbox is the other side of inSandbox.
func enterSandbox(text string) {
	runtime.LockOSThread()
	os.Unsetenv(inSandbox)
	err := parseFilter(text).install()
	if err == nil {
		err = syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "enter the sandbox:", err)
	os.Exit(99)
}

// calls are the numbers of the system calls of this machine, by their names.
var calls = sync.OnceValues(func() (map[string]int, error) {
	cmd := exec.Command("gcc", "-E", "-dM", "-")
	cmd.Stdin = strings.NewReader("#include <sys/syscall.h>")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("gcc: %w", err)
	}
	numbers := map[string]int{}
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) == 3 && strings.HasPrefix(fields[1], "__NR_") {
			if n, err := strconv.Atoi(fields[2]); err == nil {
				numbers[strings.TrimPrefix(fields[1], "__NR_")] = n
			}
		}
	}
	return numbers, nil
})

// group is what a group of system calls consists of, by the word of systemd.
func group(name string, into map[string]bool) error {
	out, err := exec.Command("systemd-analyze", "syscall-filter", name).Output()
	if err != nil {
		return fmt.Errorf("systemd-analyze: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		switch word := strings.TrimSpace(line); {
		case word == "" || word == name || strings.HasPrefix(word, "#"):
		case strings.HasPrefix(word, "@"):
			if err := group(word, into); err != nil {
				return err
			}
		default:
			into[word] = true
		}
	}
	return nil
}

// unitFilter is SystemCallFilter= and RestrictAddressFamilies= of the unit, with
// the meaning of systemd.exec(5).
var unitFilter = sync.OnceValues(func() (filter, error) {
	unit, err := os.ReadFile(filepath.Join("..", "..", "systemd", "wslmirror.service"))
	if err != nil {
		return nil, err
	}
	allowed := map[string]bool{}
	var families []string
	for line := range strings.Lines(string(unit)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "RestrictAddressFamilies":
			families = append(families, strings.Fields(value)...)
		case "SystemCallFilter":
			value, not := strings.CutPrefix(value, "~")
			for _, name := range strings.Fields(value) {
				named := map[string]bool{}
				if err := group(name, named); err != nil {
					return nil, err
				}
				for call := range named {
					allowed[call] = !not
				}
			}
		}
	}
	numbers, err := calls()
	if err != nil {
		return nil, err
	}
	var f filter
	f.load(callAt)
	// Of socket, only the families; this comes first, as the others end there.
	f = append(f, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(numbers["socket"]), Jf: uint8(2 + 2*len(families))})
	f.load(firstArgAt)
	for _, name := range families {
		family, ok := map[string]int{"AF_NETLINK": unix.AF_NETLINK, "AF_UNIX": unix.AF_UNIX}[name]
		if !ok {
			return nil, fmt.Errorf("address family %s", name)
		}
		f.answer(family, unix.SECCOMP_RET_ALLOW)
	}
	f.end(unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT))
	for name, ok := range allowed {
		if number, known := numbers[name]; ok && known {
			f.answer(number, unix.SECCOMP_RET_ALLOW)
		}
	}
	f.end(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
	return f, nil
})

// readable is a copy of the test binary where any user may run it.
var readable = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "wslmirror")
	if err != nil {
		return "", err
	}
	atExit = append(atExit, func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	from, err := os.Open(os.Args[0])
	if err != nil {
		return "", err
	}
	defer from.Close()
	bin := filepath.Join(dir, "wslmirror")
	to, err := os.OpenFile(bin, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	return bin, errors.Join(err, to.Close())
})

// plain is the program as users get it, beside readable.
var plain = sync.OnceValues(func() (string, error) {
	beside, err := readable()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(filepath.Dir(beside), "plain")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return bin, nil
})

// asNobody makes commands that are wslmirror, run by an ordinary user with no
// capability but those named, for example "+net_admin".
func asNobody(t testing.TB, capabilities ...string) func(args ...string) *exec.Cmd {
	t.Helper()
	bin, err := readable()
	if err != nil {
		t.Fatal(err)
	}
	caps := strings.Join(append([]string{"-all"}, capabilities...), ",")
	return func(args ...string) *exec.Cmd {
		cmd := exec.Command("setpriv", append([]string{
			"--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--pdeathsig=keep",
			"--bounding-set=" + caps, "--inh-caps=" + caps, "--ambient-caps=" + caps, bin,
		}, args...)...)
		cmd.Env = programEnv()
		return cmd
	}
}

// under puts a command of asNobody under a filter.
func under(f filter, cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(cmd.Env, inSandbox+"="+f.String())
	return cmd
}

// asService is a command that is wslmirror with the rights of the service.
func asService(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	f, err := unitFilter()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := readable()
	if err != nil {
		t.Fatal(err)
	}
	return under(f, asNobody(t, "+net_admin")(append([]string{bin}, args...)...))
}

// runtimeDir is the directory that systemd would make for the service.
func runtimeDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wslmirror")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chown(dir, nobody, nobody), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What the tests lean on: the filter refuses what the unit forbids, and so do the
// rights.
func TestSandbox(t *testing.T) {
	labtest.NeedRoot(t)
	f, err := unitFilter()
	if err != nil {
		t.Fatal(err)
	}
	for script, want := range map[string]string{
		"id -u":                         "65534\n",
		"grep CapEff /proc/self/status": "CapEff:\t0000000000001000\n", // 12 is CAP_NET_ADMIN
		"nice -n 1 true 2>&1":           "cannot set niceness",
		"exec 3<>/dev/tcp/127.0.0.1/1":  "not supported",
		"cat /proc/self/stat > /etc/x":  "denied",
	} {
		cmd := under(f, asNobody(t, "+net_admin")("/bin/bash", "-c", script))
		if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), want) {
			t.Errorf("%s says %q, want %q", script, out, want)
		}
	}
}
