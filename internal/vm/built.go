package vm

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// A Built is a kernel that is built here, of a package with its source and of a fragment
// of a configuration, on top of the smallest one there is. It has no modules.
type Built struct {
	Source Debian
	// Name is what its release ends with.
	Name     string
	Fragment []byte
}

func (b Built) String() string { return b.Source.Package + " " + b.Name }

// Get builds the kernel, if this machine has it not yet in its cache.
func (b Built) Get() (k Kernel, err error) {
	name := fmt.Sprintf("kernel-%s-%s-%x", b.Source.Package, b.Name, sha256.Sum256(b.Fragment))[:len("kernel--")+len(b.Source.Package)+len(b.Name)+13]
	if k.dir, err = lab.Cached(name, b.build); err != nil {
		return k, fmt.Errorf("build %s: %w", b.Source.Package, err)
	}
	return k, k.find()
}

// buildScript builds in the folder $1, with the release's end $2.
const buildScript = `
cd "$1"
tar xf usr/src/linux-source-*.tar.*
cd linux-source-*
make -s tinyconfig
scripts/kconfig/merge_config.sh -m .config ../fragment >/dev/null
echo "CONFIG_LOCALVERSION=\"-$2\"" >>.config
make -s olddefconfig
# What is on in the fragment must be on.
grep '=y$' ../fragment | while read -r option; do
	grep -qx "$option" .config || { echo "no $option" >&2; exit 1; }
done
make -s -j"$(nproc)" bzImage
mkdir ../boot
cp arch/x86/boot/bzImage ../boot/vmlinuz-"$(make -s kernelrelease)"
cd ..
rm -rf linux-source-* usr fragment
`

func (b Built) build(dir string) error {
	if err := b.Source.extract(dir, "linux-source-"); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "fragment"), b.Fragment, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "vm: building %s, once, in ten minutes or more\n", b.Source.Package)
	cmd := exec.Command("sh", "-ec", buildScript, "sh", dir, b.Name)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := onThread(cmd.Run); err != nil {
		text := out.String()
		return fmt.Errorf("%w: ...%s", err, text[max(0, len(text)-2000):])
	}
	return nil
}
