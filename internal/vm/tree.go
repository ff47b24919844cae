package vm

import (
	"bufio"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A Tree is a file system that becomes an initramfs.
type Tree struct{ files map[string]file }

// A file is one of a Tree: its content, or a file of this machine that has it.
type file struct {
	mode    fs.FileMode
	content []byte
	from    string
}

// NewTree is an empty Tree.
func NewTree() *Tree { return &Tree{files: map[string]file{}} }

func (t *Tree) clone() *Tree { return &Tree{files: maps.Clone(t.files)} }

// Write makes a file.
func (t *Tree) Write(path string, mode fs.FileMode, content []byte) {
	t.files[path] = file{mode: mode, content: content}
}

// Copy copies a file, or a folder with all that is in it, from this machine.
func (t *Tree) Copy(path, from string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(name) // of what a link leads to
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		t.files[filepath.Join(path, strings.TrimPrefix(name, from))] = file{mode: info.Mode().Perm(), from: name}
		return nil
	})
}

// Program copies a program of this machine with its libraries.
func (t *Tree) Program(name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	if err := t.Copy(path, path); err != nil {
		return err
	}
	// ldd fails for a program that needs none.
	out, _ := exec.Command("ldd", path).Output()
	for _, word := range strings.Fields(string(out)) {
		if filepath.IsAbs(word) {
			if err := t.Copy(word, word); err != nil {
				return err
			}
		}
	}
	return nil
}

// save writes the tree as the kernel reads it (Documentation/driver-api/early-userspace/
// buffer-format.rst).
func (t *Tree) save(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	at, inode := 0, 0
	pad := func() {
		for ; at%4 != 0; at++ {
			w.WriteByte(0)
		}
	}
	add := func(name string, mode uint32, content []byte) {
		inode++
		n, _ := fmt.Fprintf(w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
		at += n
		pad()
		n, _ = w.Write(content)
		at += n
		pad()
	}
	made := map[string]bool{".": true}
	for _, path := range slices.Sorted(maps.Keys(t.files)) {
		name, entry := strings.TrimPrefix(path, "/"), t.files[path]
		var above []string
		for dir := filepath.Dir(name); !made[dir]; dir = filepath.Dir(dir) {
			above, made[dir] = append(above, dir), true
		}
		for _, dir := range slices.Backward(above) {
			add(dir, 0o040755, nil)
		}
		if entry.from != "" {
			if entry.content, err = os.ReadFile(entry.from); err != nil {
				return err
			}
		}
		add(name, 0o100000|uint32(entry.mode), entry.content)
	}
	add("TRAILER!!!", 0, nil)
	if err := w.Flush(); err != nil { // it keeps the first error
		return err
	}
	return f.Close()
}
