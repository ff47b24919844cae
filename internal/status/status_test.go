package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

var example = Snapshot{
	Schema:    Schema,
	State:     Active,
	Interface: Interface{Name: "loopback0", Index: 5, Present: true},
	Path:      "proxy",
	Table:     Table{Family: "ip", Name: "wslmirror", Installed: true},
	Rule:      Rule{Packets: 3, Bytes: 180},
	Ports:     []Port{{Proto: "tcp", Port: 8080, Address: "0.0.0.0", Target: "172.17.0.2:80", Engine: "docker", Path: "proxy"}},
	Version:   "1.2.3",
	PID:       42,
	Since:     time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	Updated:   time.Date(2026, 1, 2, 4, 4, 5, 0, time.UTC),
}

func TestWriteThenRead(t *testing.T) {
	dir := t.TempDir()
	old := unix.Umask(0o077) // as in a strict service
	err := Write(dir, example)
	unix.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if err != nil || !reflect.DeepEqual(got, example) {
		t.Errorf("read %+v, %v", got, err)
	}
	fi, err := os.Stat(filepath.Join(dir, fileName))
	if err != nil || fi.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v; any user must be able to read it", fi.Mode(), err)
	}
	if err := errors.Join(Remove(dir), Remove(dir)); err != nil {
		t.Error(err)
	}
	if _, err := Read(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read after Remove: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// The field names are an interface.
func TestFieldNames(t *testing.T) {
	dir := t.TempDir()
	s := example
	s.Ports = nil
	if err := Write(dir, s); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"schema":1,"state":"active","interface":{"name":"loopback0","index":5,"present":true},` +
		`"path":"proxy","table":{"family":"ip","name":"wslmirror","installed":true},` +
		`"rule":{"packets":3,"bytes":180},"ports":[],"version":"1.2.3","pid":42,` +
		`"since":"2026-01-02T03:04:05Z","updated":"2026-01-02T04:04:05Z"}`
	var got bytes.Buffer
	if err := json.Compact(&got, b); err != nil || got.String() != want {
		t.Errorf("got  %s, %v\nwant %s", got.String(), err, want)
	}
}

func TestReadRefuses(t *testing.T) {
	tests := map[string]struct {
		put  func(path string) error
		want string
	}{
		"truncated": {func(p string) error { return os.WriteFile(p, []byte(`{"state":"act`), 0o644) }, "damaged"},
		"empty":     {func(p string) error { return os.WriteFile(p, nil, 0o644) }, "damaged"},
		"not ours":  {func(p string) error { return os.WriteFile(p, []byte(`[1,2]`), 0o644) }, "damaged"},
		"huge":      {func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte(" "), maxSize+1), 0o644) }, "too large"},
		"a link":    {func(p string) error { return os.Symlink("/etc/hostname", p) }, "is a link"},
		"a pipe":    {func(p string) error { return unix.Mkfifo(p, 0o644) }, "not a regular file"},
		"a folder":  {func(p string) error { return os.Mkdir(p, 0o755) }, "not a regular file"},
		"a socket":  {func(p string) error { _, err := net.Listen("unix", p); return err }, "no such device"},
		"deep":      {func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("["), 1<<20), 0o644) }, "damaged"},
		"two":       {func(p string) error { return os.WriteFile(p, []byte("{}{}"), 0o644) }, "damaged"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := test.put(filepath.Join(dir, fileName)); err != nil {
				t.Fatal(err)
			}
			if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Read: %v, want %q", err, test.want)
			}
		})
	}
}

func TestReadRefusesADevice(t *testing.T) {
	labtest.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mknod(filepath.Join(dir, fileName), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil { // /dev/zero
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("Read: %v", err)
	}
}

// Write neither writes to nor waits for something that others have put in the place of the
// new file.
func TestWriteFollowsNothing(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	for name, put := range map[string]func(path string) error{
		"a link":   func(p string) error { return os.Symlink(outside, p) },
		"a pipe":   func(p string) error { return unix.Mkfifo(p, 0o666) },
		"a file":   func(p string) error { return os.WriteFile(p, []byte("left"), 0o666) },
		"a folder": func(p string) error { return os.Mkdir(p, 0o755) },
		"hard link ": func(p string) error {
			return errors.Join(os.WriteFile(outside+"2", nil, 0o644), os.Link(outside+"2", p))
		},
	} {
		dir := t.TempDir()
		if err := put(filepath.Join(dir, "."+fileName+".new")); err != nil {
			t.Fatal(err)
		}
		if err := Write(dir, example); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := Read(dir); err != nil || !reflect.DeepEqual(got, example) {
			t.Errorf("%s: read %+v, %v", name, got, err)
		}
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Error("wrote through a link")
	}
	if b, _ := os.ReadFile(outside + "2"); len(b) != 0 {
		t.Error("wrote through a hard link")
	}
}

func FuzzDecode(f *testing.F) {
	b, _ := json.Marshal(example)
	f.Add(b)
	f.Add([]byte(`{"ports":null,"since":"0000-00-00T00:00:00Z"}`))
	f.Add([]byte(`{"schema":1,"state":"\u001b]0;x\u0007","reserved_in_windows":{"first":1},"PORTS":[{"engine":"\u202e"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decode(b)
		if err != nil {
			return
		}
		if s.Sentence() == "" {
			t.Error("no sentence")
		}
		// A snapshot that was read can be published again, and its JSON form is the same.
		s.Schema = Schema
		b, err = encode(s)
		if err != nil {
			return // a time without a JSON form
		}
		if again, err := decode(b); err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%+v is %+v when read again, %v", s, again, err)
		}
		if r := bytes.IndexFunc(b, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); r >= 0 {
			t.Errorf("%q is not escaped", b[r:])
		}
	})
}

func TestRefresh(t *testing.T) {
	dir := t.TempDir()
	if err := Refresh(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Refresh without a daemon: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int32
	refresh := func(context.Context) { asked.Add(1) }
	if err := Serve(ctx, dir, refresh); err != nil {
		t.Fatal(err)
	}
	if err := Refresh(dir); err != nil || asked.Load() != 1 {
		t.Errorf("Refresh: %v, asked %d times", err, asked.Load())
	}
	fi, err := os.Stat(filepath.Join(dir, socketName))
	if err != nil || fi.Mode().Perm() != 0o666 {
		t.Errorf("socket has mode %v, %v; any user must be able to connect", fi.Mode(), err)
	}
	if err := Serve(ctx, dir, refresh); !errors.Is(err, ErrInUse) {
		t.Errorf("a second daemon there: %v", err)
	}
	cancel()
	labtest.Eventually(t, "it serves no more", func() bool { return !Alive(dir) })
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A killed daemon leaves its socket; the next one replaces it.
func TestServeAfterACrash(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, socketName), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := Refresh(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Refresh of a dead daemon: %v", err)
	}
	if err := Serve(t.Context(), dir, func(context.Context) {}); err != nil {
		t.Fatal(err)
	}
	if err := Refresh(dir); err != nil {
		t.Error(err)
	}
}

// A daemon that hangs accepts nothing, but the kernel still completes the connection.
func TestRefreshOfAHangingDaemon(t *testing.T) {
	labtest.NeedTime(t)
	t.Parallel()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := Refresh(dir); !errors.Is(err, ErrSilent) {
		t.Errorf("Refresh: %v", err)
	}
}

// However many clients connect, few are served at the same time, and none waits forever.
func TestServeBounds(t *testing.T) {
	dir := t.TempDir()
	var now, most atomic.Int32
	release := make(chan struct{})
	err := Serve(t.Context(), dir, func(ctx context.Context) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		select {
		case <-release:
		case <-ctx.Done():
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for range 5 * maxAsking {
		go func() { done <- Refresh(dir) }()
	}
	labtest.Eventually(t, "as many are served as may be", func() bool { return now.Load() == maxAsking })
	close(release)
	for range 5 * maxAsking {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := most.Load(); got != maxAsking {
		t.Errorf("%d were served at the same time, want %d", got, maxAsking)
	}
}

// What daemons of other versions publish.
func TestOtherSchemas(t *testing.T) {
	dir := t.TempDir()
	put := func(s string) (Snapshot, error) {
		if err := os.WriteFile(filepath.Join(dir, fileName), []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
		return Read(dir)
	}
	const old = `{"state":"active","rule":{"packets":3},"directions":[{"name":"from-windows","active":true,"packets":3,"bytes":180,"ports":[]}],` +
		`"source_ports":{"first":1,"last":2},"ports":null,"version":"0.1.0"}`
	if s, err := put(old); err != nil || s.Schema != 0 || s.State != Active || s.Rule.Packets != 3 || s.Directions != nil || s.SourcePorts != nil || s.Ports == nil {
		t.Errorf("an older one: %+v, %v", s, err)
	}
	var other *SchemaError
	for _, n := range []string{"2", "-1"} {
		if s, err := put(`{"schema":` + n + `,"state":"active"}`); !errors.As(err, &other) || !reflect.DeepEqual(s, Snapshot{}) {
			t.Errorf("schema %s: %+v, %v", n, s, err)
		}
	}
	if _, err := put(`{"schema":"1"}`); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a schema that is no number: %v", err)
	}
}
