package packaging

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Nix identifies the modules by the checksum of the folder that "go mod vendor" makes. Only
// this test notices if the checksum is out of date.
func TestFlakeKnowsTheModules(t *testing.T) {
	need(t, "go")
	flake, err := os.ReadFile("../flake.nix")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`vendorHash = "([^"]+)"`).FindSubmatch(flake)
	if m == nil {
		t.Fatal("flake.nix has no vendorHash")
	}
	vendor := filepath.Join(t.TempDir(), "vendor")
	run(t, "go", "-C", "..", "mod", "vendor", "-o", vendor)
	sum := sha256.New()
	word(sum, "nix-archive-1")
	if err := archive(sum, vendor); err != nil {
		t.Fatal(err)
	}
	if want := "sha256-" + base64.StdEncoding.EncodeToString(sum.Sum(nil)); string(m[1]) != want {
		t.Errorf("vendorHash in flake.nix is %s, want %s", m[1], want)
	}
}

// archive writes the folder or file at path in the format of Nix's archives.
func archive(h hash.Hash, path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	word(h, "(", "type")
	switch {
	case info.IsDir():
		word(h, "directory")
		entries, err := os.ReadDir(path) // sorted
		if err != nil {
			return err
		}
		for _, e := range entries {
			word(h, "entry", "(", "name", e.Name(), "node")
			if err := archive(h, filepath.Join(path, e.Name())); err != nil {
				return err
			}
			word(h, ")")
		}
	case info.Mode().IsRegular():
		word(h, "regular")
		if info.Mode()&0o100 != 0 {
			word(h, "executable", "")
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		word(h, "contents", string(b))
	default:
		return &fs.PathError{Op: "archive", Path: path, Err: errors.ErrUnsupported}
	}
	word(h, ")")
	return nil
}

// word writes words as Nix does: the length, then the bytes, padded to a multiple of eight.
func word(h hash.Hash, words ...string) {
	for _, w := range words {
		binary.Write(h, binary.LittleEndian, uint64(len(w)))
		io.WriteString(h, w)
		h.Write(make([]byte, (8-len(w)%8)%8))
	}
}
