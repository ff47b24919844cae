package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// A Debian is where a kernel comes from: a package of a suite, which may be one that
// depends on the kernel's own.
type Debian struct{ Suite, Package string }

func (d Debian) String() string { return d.Suite + " " + d.Package }

// A Kernel is one that can be booted.
type Kernel struct {
	Name  string // its release
	image string
	dir   string // with lib/modules
}

// Get fetches the kernel, if this machine has it not yet in its cache (see
// lab.Cached). The version that was fetched once stays.
func (d Debian) Get() (k Kernel, err error) {
	name := strings.NewReplacer("/", "-").Replace("kernel-" + d.Suite + "-" + d.Package)
	if k.dir, err = lab.Cached(name, d.fetch); err != nil {
		return k, fmt.Errorf("get %s of %s: %w", d.Package, d.Suite, err)
	}
	return k, k.find()
}

// find finds the image in the folder, and the release. Debian has moved the image since 13.
func (k *Kernel) find() error {
	releases, err := filepath.Glob(filepath.Join(k.dir, "lib/modules/*"))
	if err != nil || len(releases) != 1 {
		return fmt.Errorf("%d folders of modules in %s, %v", len(releases), k.dir, err)
	}
	k.Name = filepath.Base(releases[0])
	for _, k.image = range []string{filepath.Join(k.dir, "boot/vmlinuz-"+k.Name), filepath.Join(releases[0], "vmlinuz")} {
		if _, err = os.Stat(k.image); err == nil {
			return nil
		}
	}
	return err
}

// fetch gets the kernel's image and its modules.
func (d Debian) fetch(dir string) error {
	if err := d.extract(dir); err != nil {
		return err
	}
	// Where the folders of the system are merged already, as in Debian 13.
	if usr := filepath.Join(dir, "usr/lib"); exists(filepath.Join(usr, "modules")) {
		if err := os.Rename(usr, filepath.Join(dir, "lib")); err != nil {
			return err
		}
	}
	k := Kernel{dir: dir}
	if err := k.find(); err != nil {
		return err
	}
	if out, err := exec.Command("depmod", "-b", dir, k.Name).CombinedOutput(); err != nil {
		return fmt.Errorf("depmod: %w: %s", err, out)
	}
	return os.RemoveAll(filepath.Join(dir, "usr"))
}

// parts are the names of packages with a kernel, or with a part of one.
var parts = regexp.MustCompile(`\blinux-(image|binary|modules)-\S+`)

// extract has apt download the package and those parts on which it depends, and extracts
// them. The apt is one that knows nothing but the suite, so that nothing of this machine
// changes.
func (d Debian) extract(dir string) error {
	fmt.Fprintf(os.Stderr, "vm: fetching %s of Debian %s, once\n", d.Package, d.Suite)
	apt := filepath.Join(dir, "apt")
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(apt, sub), 0o755); err != nil {
			return err
		}
	}
	sources := d.sources()
	if sources == "" {
		return errors.New("apt knows no mirror of Debian on this machine: run apt-get update")
	}
	if err := os.WriteFile(filepath.Join(apt, "sources.list"), []byte(sources), 0o644); err != nil {
		return err
	}
	run := func(program string, args ...string) (string, error) {
		cmd := exec.Command(program, append([]string{
			"-o", "Dir::Etc::sourcelist=" + apt + "/sources.list", "-o", "Dir::Etc::sourceparts=-",
			"-o", "Dir::Etc::preferences=-", "-o", "Dir::Etc::preferencesparts=-",
			"-o", "Dir::State::lists=" + apt + "/lists", "-o", "Dir::Cache=" + apt + "/cache",
			"-o", "APT::Sandbox::User=root", "-o", "APT::Default-Release=" + d.Suite, "-o", "Acquire::Check-Valid-Until=false",
		}, args...)...)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		var out []byte
		err := onThread(func() (err error) {
			out, err = cmd.CombinedOutput()
			return err
		})
		if err != nil {
			return "", fmt.Errorf("%s %s: %w: %s", program, args[0], err, out)
		}
		return string(out), nil
	}
	if _, err := run("apt-get", "update", "-qq"); err != nil {
		return err
	}
	// One package depends on the next, until there are an image and modules.
	all := []string{d.Package}
	for i := 0; i < len(all); i++ {
		out, err := run("apt-cache", "depends", "--important", all[i])
		if err != nil {
			return err
		}
		for _, name := range parts.FindAllString(out, -1) {
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	if _, err := run("apt-get", append([]string{"download", "-qq"}, all...)...); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if out, err := exec.Command("dpkg-deb", "--extract", deb, dir).CombinedOutput(); err != nil {
			return fmt.Errorf("extract %s: %w: %s", deb, err, out)
		}
	}
	for _, gone := range append(debs, apt) {
		if err := os.RemoveAll(gone); err != nil {
			return err
		}
	}
	return nil
}

// sources are apt's, for the suite and what it builds on.
func (d Debian) sources() string {
	suite, backports := strings.CutSuffix(d.Suite, "-backports")
	lines := lab.AptSources(suite)
	var b strings.Builder
	for _, line := range lines {
		line = strings.Replace(line, "deb ", "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ", 1)
		fmt.Fprintln(&b, line)
		if of := " " + suite + " main"; backports && strings.HasSuffix(line, of) {
			fmt.Fprintln(&b, strings.TrimSuffix(line, of)+" "+d.Suite+" main")
		}
	}
	return b.String()
}

// folders are those of modules that networking needs.
var folders = []string{"net", "lib", "crypto", "arch/x86/crypto", "drivers/net"}

// addModules gives a tree the modules in some folders, but for some.
func (k Kernel) addModules(root *Tree, folders, without []string) error {
	base := filepath.Join("/lib/modules", k.Name)
	indexes, err := filepath.Glob(filepath.Join(k.dir, base, "modules.*"))
	if err != nil {
		return err
	}
	for _, from := range indexes {
		if err := root.Copy(filepath.Join(base, filepath.Base(from)), from); err != nil {
			return err
		}
	}
	for _, folder := range folders {
		at := filepath.Join(base, "kernel", folder)
		if !exists(filepath.Join(k.dir, at)) {
			continue // a kernel without
		}
		if err := root.Copy(at, filepath.Join(k.dir, at)); err != nil {
			return err
		}
	}
	for path := range root.files {
		name, _, _ := strings.Cut(filepath.Base(path), ".ko")
		if strings.HasPrefix(path, base) && slices.Contains(without, strings.ReplaceAll(name, "-", "_")) {
			delete(root.files, path)
		}
	}
	return nil
}

// onThread runs a program from a thread that lives as long as it does: Pdeathsig is sent
// when the thread ends.
func onThread(run func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return run()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
