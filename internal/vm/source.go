package vm

import (
	"bytes"
	"crypto/sha256"
	"embed"
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

// A Source is where a kernel comes from that is built on this machine: a Debian package
// with the source, and a configuration.
type Source struct {
	Debian
	// Config is one of the folder configs, without its ending.
	Config string
	// Unknown are the symbols of the configuration that this source does not have.
	Unknown []string
}

func (s Source) String() string { return s.Debian.String() + " as " + s.Config }

//go:embed configs
var configs embed.FS

// bootConfig is what every kernel that is built needs beside its own configuration.
const bootConfig = "boot"

func config(name string) []byte {
	b, err := configs.ReadFile("configs/" + name + ".config")
	if err != nil {
		panic(err)
	}
	return b
}

// Get builds the kernel, if this machine has it not yet in its cache (see lab.Cached), or
// has it with another configuration. The version that was built once stays.
func (s Source) Get() (k Kernel, err error) {
	sum := sha256.Sum256(slices.Concat(config(bootConfig), config(s.Config)))
	if k.dir, err = lab.Cached(fmt.Sprintf("kernel-%s-%s-%s-%x", s.Suite, s.Package, s.Config, sum[:4]), s.build); err != nil {
		return k, fmt.Errorf("build %v: %w", s, err)
	}
	return k, k.find()
}

// build leaves in the folder what Kernel needs: boot and lib/modules.
func (s Source) build(dir string) error {
	if err := s.extract(dir); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "vm: building %v, once; that takes up to half an hour\n", s)
	usr, at := filepath.Join(dir, "usr"), filepath.Join(dir, "source")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	run := func(program string, args ...string) error {
		cmd := exec.Command(program, args...)
		cmd.Dir = at
		// This may run below a make, which tells others its options.
		cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=", "LOCALVERSION=-"+s.Config)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		var out []byte
		err := onThread(func() (err error) {
			out, err = cmd.CombinedOutput()
			return err
		})
		if err != nil {
			return fmt.Errorf("%s %s: %w: ...%s", program, strings.Join(args, " "), err, out[max(0, len(out)-2000):])
		}
		return nil
	}
	if err := run("tar", "--extract", "--strip-components=1", "--file="+filepath.Join(usr, "src", s.Package+".tar.xz")); err != nil {
		return err
	}
	for _, name := range []string{bootConfig, s.Config} {
		if err := os.WriteFile(filepath.Join(at, name+".config"), config(name), 0o644); err != nil {
			return err
		}
	}
	// -n: what neither of them names is n, if it can be chosen.
	if err := run("scripts/kconfig/merge_config.sh", "-n", bootConfig+".config", s.Config+".config"); err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(at, ".config"))
	if err != nil {
		return err
	}
	if d := differing(config(s.Config), got); !slices.Equal(d, s.Unknown) {
		return fmt.Errorf("the kernel would not be as configured: %v differ, and %v should", d, s.Unknown)
	}
	if err := run("make", fmt.Sprintf("-j%d", runtime.NumCPU()), "bzImage", "modules"); err != nil {
		return err
	}
	if err := run("make", "modules_install", "INSTALL_MOD_PATH="+dir, "INSTALL_MOD_STRIP=1"); err != nil {
		return err
	}
	releases, err := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if err != nil || len(releases) != 1 {
		return errors.Join(fmt.Errorf("%d folders of modules", len(releases)), err)
	}
	if err := os.Rename(filepath.Join(at, "arch/x86/boot/bzImage"), filepath.Join(releases[0], "vmlinuz")); err != nil {
		return err
	}
	for _, gone := range []string{usr, at, filepath.Join(releases[0], "build"), filepath.Join(releases[0], "source")} {
		if err := os.RemoveAll(gone); err != nil {
			return err
		}
	}
	return nil
}

// symbol is a line of a configuration.
var symbol = regexp.MustCompile(`(?m)^(?:CONFIG_(\w+)=(.+)|# CONFIG_(\w+) is not set)$`)

// values are those of a configuration, but for n: what cannot be chosen is not in a
// kernel's, and is n.
func values(config []byte) map[string]string {
	all := map[string]string{}
	for _, m := range symbol.FindAllSubmatch(bytes.TrimSpace(config), -1) {
		if len(m[1]) > 0 {
			all[string(m[1])] = string(m[2])
		}
	}
	return all
}

// differing are the symbols of a wanted configuration that have another value in the one
// that came of it.
func differing(want, got []byte) []string {
	var symbols []string
	wanted, has := values(want), values(got)
	for _, m := range symbol.FindAllSubmatch(want, -1) {
		if name := string(m[1]) + string(m[3]); wanted[name] != has[name] {
			symbols = append(symbols, name)
		}
	}
	return symbols
}
