package packaging

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// machines are the architectures, as Go names them and as uname does.
var machines = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// A release consists of these files, each with its checksum.
func TestRelease(t *testing.T) {
	dir := packages(t, dist)
	version, rel := release(t)
	want := []string{"SHA256SUMS"}
	for goarch, machine := range machines {
		want = append(want,
			fmt.Sprintf("wslmirror_%s-%s_%s.deb", version, rel, goarch),
			fmt.Sprintf("wslmirror-%s-%s.%s.rpm", version, rel, machine),
			fmt.Sprintf("wslmirror-%s-%s-%s.pkg.tar.zst", version, rel, machine),
			fmt.Sprintf("wslmirror-%s-linux-%s.tar.gz", version, goarch),
			fmt.Sprintf("wslmirror-%s-linux-%s.cdx.json", version, goarch))
	}
	slices.Sort(want)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("a release is %q, want %q", got, want)
	}
	out := run(t, "sh", "-c", `cd "$1" && sha256sum --check --strict SHA256SUMS`, "sh", dir)
	if n := strings.Count(out, ": OK\n"); n != len(want)-1 {
		t.Errorf("SHA256SUMS has %d of %d files:\n%s", n, len(want)-1, out)
	}
}

// The package for this machine is the same as in the release, and the only file.
func TestPackageForThisMachine(t *testing.T) {
	released := packages(t, dist)
	dir := t.TempDir()
	// Files of an earlier build are removed.
	if err := os.WriteFile(filepath.Join(dir, "wslmirror_0.0.1-1_amd64.deb"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out := run(t, "./build.sh", "--package", dir)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("built %v, %v\n%s", entries, err, out)
	}
	name := entries[0].Name()
	if !sameFile(t, filepath.Join(dir, name), filepath.Join(released, name)) {
		t.Errorf("%s is not that of the release", name)
	}
	if !strings.Contains(out, "install it with: sudo ") || !strings.Contains(out, filepath.Join(dir, name)) {
		t.Errorf("it does not say how to install the package:\n%s", out)
	}
}

// files lists the files in a tar as "mode path", and returns the contents of those whose
// path ends with one of wanted. All files must belong to root.
func files(t *testing.T, archive io.Reader, wanted ...string) (list []string, contents map[string]string) {
	t.Helper()
	contents = map[string]string{}
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" && h.Uname != "root" {
			t.Errorf("%s belongs to %d:%d %q", h.Name, h.Uid, h.Gid, h.Uname)
		}
		mode := h.FileInfo().Mode()
		if mode.IsDir() {
			if mode.Perm() != 0o755 {
				t.Errorf("%s has mode %v", h.Name, mode)
			}
			continue
		}
		list = append(list, fmt.Sprintf("%v /%s", mode, h.Name))
		if slices.ContainsFunc(wanted, func(end string) bool { return strings.HasSuffix(h.Name, end) }) {
			b, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			contents[filepath.Base(h.Name)] = string(b)
		}
	}
}

// likeRPM returns the contents of the rpm in the format of files: Fedora and Arch use the
// same paths.
func likeRPM() (list []string) {
	for line := range strings.Lines(wantRPM) {
		if f := strings.Fields(line); len(f) > 0 && f[0][0] == '-' {
			list = append(list, f[0]+" "+f[3])
		}
	}
	return list
}

func TestArchContents(t *testing.T) {
	need(t, "zstd")
	version, rel := release(t)
	for _, machine := range machines {
		name := fmt.Sprintf("wslmirror-%s-%s-%s.pkg.tar.zst", version, rel, machine)
		out, err := exec.CommandContext(t.Context(), "zstd", "-dc", filepath.Join(packages(t, dist), name)).Output()
		if err != nil {
			t.Fatal(err)
		}
		got, contents := files(t, bytes.NewReader(out), ".PKGINFO")
		want := append(likeRPM(), "-rw-r--r-- /.INSTALL", "-rw-r--r-- /.MTREE", "-rw-r--r-- /.PKGINFO")
		slices.Sort(want)
		compareLines(t, name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		for _, line := range []string{
			"pkgname = wslmirror", "pkgver = " + version + "-" + rel, "arch = " + machine,
			"depend = systemd", "backup = etc/default/wslmirror",
		} {
			if !strings.Contains(contents[".PKGINFO"], line+"\n") {
				t.Errorf("%s: no %q in\n%s", name, line, contents[".PKGINFO"])
			}
		}
	}
}

// The tarball contains the same program and unit as the packages, and instructions.
func TestTarball(t *testing.T) {
	need(t, "dpkg-deb")
	version, _ := release(t)
	for goarch := range machines {
		top := fmt.Sprintf("wslmirror-%s-linux-%s", version, goarch)
		f, err := os.Open(filepath.Join(packages(t, dist), top+".tar.gz"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		unzipped, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		got, contents := files(t, unzipped, "/usr/bin/wslmirror", "/INSTALL")
		var want []string
		for _, line := range append(likeRPM(), "-rw-r--r-- /INSTALL", "-rwxr-xr-x /openrc/wslmirror") {
			want = append(want, strings.Replace(line, " /", " /"+top+"/", 1))
		}
		slices.Sort(want)
		compareLines(t, top, strings.Join(got, "\n"), strings.Join(want, "\n"))
		packaged, err := os.ReadFile(program(t, goarch))
		if err != nil || contents["wslmirror"] != string(packaged) {
			t.Errorf("%s has another program than the deb, %v", top, err)
		}
		if !strings.Contains(contents["INSTALL"], "sudo systemctl enable --now wslmirror\n") {
			t.Errorf("INSTALL says:\n%s", contents["INSTALL"])
		}
	}
}

// The SBOM lists the modules of the packaged program.
func TestSBOM(t *testing.T) {
	need(t, "dpkg-deb")
	version, _ := release(t)
	for goarch := range machines {
		name := fmt.Sprintf("wslmirror-%s-linux-%s.cdx.json", version, goarch)
		b, err := os.ReadFile(filepath.Join(packages(t, dist), name))
		if err != nil {
			t.Fatal(err)
		}
		var bom struct {
			BOMFormat, SpecVersion string
			Metadata               struct {
				Component  struct{ Name, Version string }
				Properties []struct{ Name, Value string }
			}
			Components []struct{ Name, Version, Purl string }
		}
		if err := json.Unmarshal(b, &bom); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if bom.BOMFormat != "CycloneDX" || bom.SpecVersion != "1.6" || bom.Metadata.Component.Version != "v"+version {
			t.Errorf("%s: %s %s, version %s", name, bom.BOMFormat, bom.SpecVersion, bom.Metadata.Component.Version)
		}
		var got, want []string
		for _, c := range bom.Components {
			got = append(got, c.Name+" "+c.Version)
			if !strings.HasPrefix(c.Purl, "pkg:golang/"+c.Name+"@"+c.Version) {
				t.Errorf("%s: the purl of %s is %s", name, c.Name, c.Purl)
			}
		}
		path := program(t, goarch)
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, dep := range info.Deps {
			want = append(want, dep.Path+" "+dep.Version)
		}
		want = append(want, "std "+info.GoVersion)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s lists\n%s\nlinked are\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		packaged, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(packaged))
		if !slices.ContainsFunc(bom.Metadata.Properties, func(p struct{ Name, Value string }) bool {
			return strings.HasSuffix(p.Name, ":hash:SHA-256") && p.Value == sum
		}) {
			t.Errorf("%s is not about the packaged program, whose sum is %s", name, sum)
		}
	}
}

// OpenRC runs the program with arguments that it understands, including the settings of the
// service.
func TestOpenRC(t *testing.T) {
	need(t, "dpkg-deb")
	settings := filepath.Join(t.TempDir(), "settings")
	write(t, settings, `WSLMIRROR_OPTS="--path direct"`+"\n", 0o644)
	script, err := os.ReadFile("openrc/wslmirror")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(script), "settings=/etc/default/wslmirror", "settings="+settings, 1)
	line := run(t, "sh", "-euc", text+`
		echo "$command $command_args"`)
	if want := "/usr/bin/wslmirror run --user nobody --path direct\n"; line != want {
		t.Errorf("it runs %q, want %q", line, want)
	}
	run(t, ownProgram(t), append(strings.Fields(line)[1:], "--help")...)
	calls := run(t, "sh", "-euc", text+`
		before() { echo "before $*"; }; after() { echo "after $*"; }
		depend; command=echo; stop_post`)
	if want := "after firewall nftables iptables\nbefore docker containerd\ncleanup\n"; calls != want {
		t.Errorf("it says %q, want %q", calls, want)
	}
}
