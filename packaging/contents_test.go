package packaging

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const wantDeb = `
-rw-r--r-- root root /etc/default/wslmirror
-rw-r--r-- root root /usr/lib/systemd/system/wslmirror-hold.service
-rw-r--r-- root root /usr/lib/systemd/system/wslmirror.service
-rw-r--r-- root root /usr/share/bash-completion/completions/wslmirror
-rw-r--r-- root root /usr/share/doc/wslmirror/changelog.Debian.gz
-rw-r--r-- root root /usr/share/doc/wslmirror/changelog.gz
-rw-r--r-- root root /usr/share/doc/wslmirror/copyright
-rw-r--r-- root root /usr/share/fish/vendor_completions.d/wslmirror.fish
-rw-r--r-- root root /usr/share/lintian/overrides/wslmirror
-rw-r--r-- root root /usr/share/man/man5/wslmirror-json.5.gz
-rw-r--r-- root root /usr/share/man/man8/wslmirror.8.gz
-rw-r--r-- root root /usr/share/wslmirror/schema/doctor.json
-rw-r--r-- root root /usr/share/wslmirror/schema/ports-explain.json
-rw-r--r-- root root /usr/share/wslmirror/schema/ports-free.json
-rw-r--r-- root root /usr/share/wslmirror/schema/ports.json
-rw-r--r-- root root /usr/share/wslmirror/schema/status.json
-rw-r--r-- root root /usr/share/wslmirror/schema/trace.json
-rw-r--r-- root root /usr/share/zsh/vendor-completions/_wslmirror
-rwxr-xr-x root root /usr/bin/wslmirror
-rwxr-xr-x root root /usr/libexec/wslmirror/mirrorlab
`

// The last column: c configuration, n noreplace, d documentation, l license.
const wantRPM = `
-rw-r--r-- root root /etc/default/wslmirror cn
-rw-r--r-- root root /usr/lib/systemd/system/wslmirror-hold.service 
-rw-r--r-- root root /usr/lib/systemd/system/wslmirror.service 
-rw-r--r-- root root /usr/share/bash-completion/completions/wslmirror 
-rw-r--r-- root root /usr/share/doc/wslmirror/CHANGELOG.md d
-rw-r--r-- root root /usr/share/fish/vendor_completions.d/wslmirror.fish 
-rw-r--r-- root root /usr/share/licenses/wslmirror/LICENSE l
-rw-r--r-- root root /usr/share/licenses/wslmirror/copyright l
-rw-r--r-- root root /usr/share/man/man5/wslmirror-json.5.gz d
-rw-r--r-- root root /usr/share/man/man8/wslmirror.8.gz d
-rw-r--r-- root root /usr/share/wslmirror/schema/doctor.json 
-rw-r--r-- root root /usr/share/wslmirror/schema/ports-explain.json 
-rw-r--r-- root root /usr/share/wslmirror/schema/ports-free.json 
-rw-r--r-- root root /usr/share/wslmirror/schema/ports.json 
-rw-r--r-- root root /usr/share/wslmirror/schema/status.json 
-rw-r--r-- root root /usr/share/wslmirror/schema/trace.json 
-rw-r--r-- root root /usr/share/zsh/site-functions/_wslmirror 
-rwxr-xr-x root root /usr/bin/wslmirror 
-rwxr-xr-x root root /usr/libexec/wslmirror/mirrorlab 
drwxr-xr-x root root /usr/libexec/wslmirror 
drwxr-xr-x root root /usr/share/doc/wslmirror 
drwxr-xr-x root root /usr/share/licenses/wslmirror 
drwxr-xr-x root root /usr/share/wslmirror 
drwxr-xr-x root root /usr/share/wslmirror/schema 
`

func TestDebContents(t *testing.T) {
	need(t, "dpkg-deb")
	for _, arch := range []string{"amd64", "arm64"} {
		version, rel := release(t)
		deb := filepath.Join(packages(t, dist), fmt.Sprintf("wslmirror_%s-%s_%s.deb", version, rel, arch))
		compareLines(t, deb, debFiles(t, deb), wantDeb)

		fields := run(t, "dpkg-deb", "--show", "--showformat=${Package} ${Version} ${Architecture} ${Depends}", deb)
		if want := fmt.Sprintf("wslmirror %s-%s %s systemd", version, rel, arch); fields != want {
			t.Errorf("%s: fields %q, want %q", arch, fields, want)
		}
		if got := run(t, "dpkg-deb", "--info", deb, "conffiles"); got != "/etc/default/wslmirror\n" {
			t.Errorf("%s: conffiles %q", arch, got)
		}
	}
}

func TestRPMContents(t *testing.T) {
	need(t, "rpm")
	for arch, goarch := range map[string]string{"x86_64": "amd64", "aarch64": "arm64"} {
		version, rel := release(t)
		rpm := filepath.Join(packages(t, dist), fmt.Sprintf("wslmirror-%s-%s.%s.rpm", version, rel, arch))
		compareLines(t, rpm, run(t, "rpm", "--query", "--package", rpm, "--queryformat",
			"[%{FILEMODES:perms} %{FILEUSERNAME} %{FILEGROUPNAME} %{FILENAMES} %{FILEFLAGS:fflags}\n]"), wantRPM)

		fields := run(t, "rpm", "--query", "--package", rpm, "--queryformat",
			"%{NAME} %{VERSION} %{RELEASE} %{ARCH} %{BUILDHOST}")
		if want := fmt.Sprintf("wslmirror %s %s %s localhost", version, rel, arch); fields != want {
			t.Errorf("%s: fields %q, want %q", goarch, fields, want)
		}
	}
}

func compareLines(t *testing.T, name, got, want string) {
	t.Helper()
	g, w := strings.Split(strings.Trim(got, "\n"), "\n"), strings.Split(strings.Trim(want, "\n"), "\n")
	slices.Sort(g)
	if !slices.Equal(g, w) {
		t.Errorf("%s has\n%s\nwant\n%s", filepath.Base(name), strings.Join(g, "\n"), strings.Join(w, "\n"))
	}
}

// debFiles lists the files of a deb. If an owner has no name, its number counts, as it does
// for dpkg.
func debFiles(t *testing.T, deb string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--fsys-tarfile", deb).Output()
	if err != nil {
		t.Fatal(err)
	}
	var files strings.Builder
	for r := tar.NewReader(bytes.NewReader(out)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		owner := func(name string, id int) string {
			if name == "" && id == 0 {
				return "root"
			}
			return name
		}
		mode := h.FileInfo().Mode()
		if mode.IsDir() {
			if mode != fs.ModeDir|0o755 {
				t.Errorf("%s has mode %v", h.Name, mode)
			}
			continue
		}
		fmt.Fprintf(&files, "%v %s %s %s\n", mode, owner(h.Uname, h.Uid), owner(h.Gname, h.Gid),
			strings.TrimPrefix(h.Name, "."))
	}
}

// program extracts the program for an architecture, as Go names it.
func program(t *testing.T, goarch string) string {
	t.Helper()
	return filepath.Join(extracted(t, goarch), "usr/bin/wslmirror")
}

// bench extracts mirrorlab.
func bench(t *testing.T, goarch string) string {
	t.Helper()
	return filepath.Join(extracted(t, goarch), "usr/libexec/wslmirror/mirrorlab")
}

// extracted is a folder with the files of the deb for the architecture.
func extracted(t *testing.T, goarch string) string {
	t.Helper()
	version, rel := release(t)
	dir := t.TempDir()
	run(t, "dpkg-deb", "--extract",
		filepath.Join(packages(t, dist), fmt.Sprintf("wslmirror_%s-%s_%s.deb", version, rel, goarch)), dir)
	return dir
}

func TestProgram(t *testing.T) {
	need(t, "dpkg-deb")
	for goarch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		for _, path := range []string{program(t, goarch), bench(t, goarch)} {
			f, err := elf.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			name := goarch + ": " + filepath.Base(path)
			if f.Machine != machine {
				t.Errorf("%s: the machine is %v", name, f.Machine)
			}
			if libs, _ := f.ImportedLibraries(); len(libs) > 0 || f.Section(".interp") != nil {
				t.Errorf("%s: not linked statically: %q", name, libs)
			}
			if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
				t.Errorf("%s: not stripped", name)
			}
		}
	}
}

// The program and the packages have the version of changelog.yaml, and CHANGELOG.md
// describes it.
func TestVersion(t *testing.T) {
	need(t, "dpkg-deb")
	version, _ := release(t)
	bin := ownProgram(t)
	if out := run(t, bin, "version"); !slices.Contains(strings.Fields(out), version) {
		t.Errorf("wslmirror version says %q, want %s in it", out, version)
	}
	b, err := os.ReadFile("../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^## \[?v?(\d+\.\d+\.\d+)`).FindSubmatch(b)
	if m == nil || string(m[1]) != version {
		t.Errorf("the first version of CHANGELOG.md is %q, want %s", m, version)
	}
}

// The copyright file names every module that is linked in, and no other.
func TestCopyright(t *testing.T) {
	need(t, "dpkg-deb")
	want := []string{"std"}
	for _, path := range []string{ownProgram(t), bench(t, runtime.GOARCH)} {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, dep := range info.Deps {
			if !slices.Contains(want, dep.Path) {
				want = append(want, dep.Path)
			}
		}
	}
	b, err := os.ReadFile("copyright")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^(?:Files:)? (\S+/\*.*)$`).FindAllStringSubmatch(string(b), -1) {
		for _, path := range strings.Fields(m[1]) {
			got = append(got, strings.TrimSuffix(path, "/*"))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("copyright names\n%s\nlinked are\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
