// Package repo checks the repository for properties that the compiler does not check
// but readers of the code rely on.
package repo

import (
	"bytes"
	"encoding/json"
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

// What each package must not depend on, according to CONTRIBUTING.md.
func TestLayers(t *testing.T) {
	const (
		nftables = "github.com/google/nftables"
		netlink  = "github.com/vishvananda/netlink"
		systemd  = "github.com/coreos/go-systemd/v22"
		byHand   = "github.com/mdlayher/netlink" // for google/nftables
		nlconn   = module + "/internal/nlconn"   // a leaf
		text     = module + "/internal/text"     // another
	)
	tests := []struct {
		pkg    string
		direct []string // may not import these itself
		never  []string // may not import these, directly or indirectly
		except []string // exceptions from never
	}{
		{"cmd/wslmirror", []string{netlink, nftables}, []string{module + "/internal/lab", "testing"}, nil},
		{"internal/nlconn", nil, []string{module, netlink, byHand}, nil},
		{"internal/text", nil, []string{module, netlink, nftables, "net/http"}, nil},
		{"internal/confine", nil, []string{module, netlink, nftables, systemd, "flag"}, nil},
		{"internal/conntrack", nil, []string{module, netlink, byHand}, []string{nlconn}},
		{"internal/sockdiag", nil, []string{module, netlink, byHand}, []string{nlconn}},
		{"nft", nil, []string{systemd, module + "/systemd", module + "/internal", module + "/netwatch"}, []string{nlconn}},
		{"netwatch", nil, []string{nftables, systemd, byHand, module + "/internal", module + "/nft"}, []string{nlconn, text}},
		{"systemd", nil, []string{nftables, netlink, module + "/internal", module + "/nft"}, []string{text}},
		{"internal/mirror", nil, []string{systemd, "flag", module + "/cmd", module + "/internal/windows", module + "/internal/ports"}, nil},
		{"internal/hold", nil, []string{nftables, netlink, systemd, "flag", module + "/cmd", module + "/nft", module + "/netwatch", module + "/internal/mirror"}, nil},
		{"internal/trace", []string{"os", "os/exec"}, []string{systemd, "flag", module + "/cmd", module + "/internal/mirror", module + "/internal/lab"}, nil},
		{"internal/ports", nil, []string{nftables, netlink, byHand, systemd, module + "/internal/mirror", module + "/netwatch", module + "/nft"}, nil},
		{"internal/windows", nil, []string{nftables, netlink, systemd, "net/http", module + "/internal"}, []string{text}},
		{"internal/status", nil, []string{nftables, netlink, systemd}, nil},
		{"internal/doctor", []string{netlink, nftables, "flag"}, []string{systemd, module + "/cmd", module + "/internal/mirror", module + "/internal/lab", "net/http"}, nil},
		{"internal/field", []string{netlink, "flag"}, []string{systemd, module + "/cmd", module + "/internal/mirror", "net/http", "testing"}, nil},
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

// The end-to-end tests judge the program by what its users see, so they do not import
// the packages that decide. The package contains only tests: nothing would build other
// code in it, and no package imports it.
func TestEndToEndIsOnlyTests(t *testing.T) {
	const e2e = module + "/internal/e2e"
	var pkg struct{ GoFiles, Imports, TestImports, XTestImports []string }
	if err := json.Unmarshal(goCommand(t, "list", "-json=GoFiles,Imports,TestImports,XTestImports", "./internal/e2e"), &pkg); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(pkg.GoFiles, []string{"doc.go"}) || len(pkg.Imports) > 0 {
		t.Errorf("internal/e2e has %q, which import %q, beside its tests", pkg.GoFiles, pkg.Imports)
	}
	for _, path := range append(pkg.TestImports, pkg.XTestImports...) {
		if slices.Contains([]string{module + "/nft", module + "/netwatch", module + "/internal/mirror", module + "/internal/windows"}, path) {
			t.Errorf("the tests of internal/e2e import %s", path)
		}
	}
	// Including the tests of all packages and all build tags.
	for line := range strings.Lines(string(goCommand(t, "list", "-tags", "clock,vm", "-f", "{{.ImportPath}} {{.Imports}} {{.TestImports}} {{.XTestImports}}", "./..."))) {
		importer, imports, _ := strings.Cut(strings.TrimSpace(line), " ")
		if slices.Contains(strings.FieldsFunc(imports, func(r rune) bool { return strings.ContainsRune(" []", r) }), e2e) {
			t.Errorf("%s imports internal/e2e", importer)
		}
	}
}
