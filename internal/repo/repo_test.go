// Package repo polices the repository: what the compiler does not know, but
// whoever reads the code relies on.
package repo

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/wslmirror/wslmirror"
)

// goCommand runs the go command at the root.
func goCommand(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v: %s", strings.Join(args, " "), err, errs.String())
	}
	return out
}

func TestEveryDirectDependencyHasItsReason(t *testing.T) {
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(goCommand(t, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "CONTRIBUTING.md"))
	if err != nil {
		t.Fatal(err)
	}
	var direct int
	for _, r := range mod.Require {
		if r.Indirect {
			continue
		}
		direct++
		if !bytes.Contains(text, []byte("\n| `"+r.Path+"` | ")) {
			t.Errorf("CONTRIBUTING.md gives no reason for %s", r.Path)
		}
	}
	if n := bytes.Count(text, []byte("\n| `g")); n != direct {
		t.Errorf("CONTRIBUTING.md has reasons for %d modules, go.mod requires %d directly", n, direct)
	}
}

// What a package must know nothing of, as CONTRIBUTING.md has it.
func TestLayers(t *testing.T) {
	const (
		nftables = "github.com/google/nftables"
		netlink  = "github.com/vishvananda/netlink"
		systemd  = "github.com/coreos/go-systemd/v22"
		byHand   = "github.com/mdlayher/netlink" // for google/nftables
		nlconn   = module + "/internal/nlconn"   // a leaf
	)
	tests := []struct {
		pkg    string
		direct []string // may not import these itself
		never  []string // may not import these by whatever way
		except []string // of never
	}{
		{"cmd/wslmirror", []string{netlink, nftables}, []string{module + "/internal/lab", "testing"}, nil},
		{"internal/nlconn", nil, []string{module, netlink, byHand}, nil},
		{"internal/conntrack", nil, []string{module, netlink, byHand}, []string{nlconn}},
		{"nft", nil, []string{systemd, module + "/systemd", module + "/internal", module + "/netwatch"}, []string{nlconn}},
		{"netwatch", nil, []string{nftables, systemd, byHand, module + "/internal", module + "/nft"}, []string{nlconn}},
		{"systemd", nil, []string{nftables, netlink, module + "/internal", module + "/nft"}, nil},
		{"internal/mirror", nil, []string{systemd, "flag", module + "/cmd", module + "/internal/windows", module + "/internal/ports"}, nil},
		{"internal/ports", nil, []string{nftables, netlink, byHand, systemd, module + "/internal/mirror", module + "/netwatch", module + "/nft"}, nil},
		{"internal/windows", nil, []string{nftables, netlink, systemd, "net/http", module + "/internal"}, nil},
		{"internal/status", nil, []string{nftables, netlink, systemd}, nil},
		{"internal/doctor", []string{netlink, nftables, "flag"}, []string{systemd, module + "/cmd", module + "/internal/mirror", module + "/internal/lab", "net/http"}, nil},
		{"internal/lab", nil, []string{module + "/nft", module + "/netwatch", module + "/internal/mirror"}, nil},
		{"internal/lab/chaos", nil, []string{module + "/nft", module + "/netwatch", module + "/internal/mirror", module + "/internal/status"}, nil},
	}
	for _, test := range tests {
		var pkg struct{ Imports, Deps []string }
		if err := json.Unmarshal(goCommand(t, "list", "-json=Imports,Deps", "./"+test.pkg), &pkg); err != nil {
			t.Fatal(err)
		}
		check := func(imports, forbidden []string) {
			for _, path := range imports {
				if !slices.Contains(test.except, path) && slices.ContainsFunc(forbidden, func(f string) bool { return path == f || strings.HasPrefix(path, f+"/") }) {
					t.Errorf("%s depends on %s", test.pkg, path)
				}
			}
		}
		check(pkg.Imports, test.direct)
		check(pkg.Deps, test.never)
	}
}

func TestNoFileIsLong(t *testing.T) {
	// Tests may be longer: a table, or the steps of one life.
	const mostCode, mostTest = 300, 500
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		most := mostCode
		if strings.HasSuffix(path, "_test.go") {
			most = mostTest
		}
		b, err := os.ReadFile(path)
		if n := bytes.Count(b, []byte("\n")); n > most {
			t.Errorf("%s has %d lines, more than %d", path, n, most)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
