package vm

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// What the kernel prints in between is no matter, and a machine that ends early is seen.
func TestRead(t *testing.T) {
	got := read([]byte("[ 1.0] boots\r\n@@ begin one\r\nhello\r\nworld\r\n\r\n@@ end 0 1500\r\n[ 2.0] noise\r\n@@ begin two\r\noops\r\n@@ end 3 7\r\n@@ begin three\r\npanic\r\n"))
	want := []Result{
		{Name: "one", Output: "hello\nworld", Took: 1500 * time.Millisecond},
		{Name: "two", Output: "oops", Exit: 3, Took: 7 * time.Millisecond},
		{Name: "three", Output: "panic", Exit: -1},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("reads %+v", got)
	}
}

// The tree is written with the folders of each file before it, and each part begins at a
// multiple of four bytes.
func TestSave(t *testing.T) {
	tree := NewTree()
	tree.Write("/a/b/c", 0o755, []byte("hello"))
	tree.Write("/d", 0o644, nil)
	path := filepath.Join(t.TempDir(), "initrd")
	if err := tree.save(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, name := range []string{"a", "a/b", "a/b/c", "d", "TRAILER!!!"} {
		next := bytes.Index(b[at:], []byte("070701"))
		if next < 0 || (at+next)%4 != 0 || !bytes.HasPrefix(b[at+next+110:], append([]byte(name), 0)) {
			t.Fatalf("no %s at %d in %q", name, at, b)
		}
		at += next + 1
	}
	if len(b)%4 != 0 || !bytes.Contains(b, []byte("hello\x00\x00\x00")) {
		t.Errorf("%q", b)
	}
}
