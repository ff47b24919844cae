package lab

import (
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// mobyScript puts a current dockerd, docker-proxy and runc before those of the
// tree, which still has the rest: containerd, docker, iptables and nft. Our runc
// is built without libseccomp.
const mobyScript = `
cgroup=$1
mount --bind "$2" usr/local/sbin
shift 2
set -- "$cgroup" --seccomp-profile=unconfined "$@"
export PATH="/usr/local/sbin:$PATH"
` + dockerScript

// StartMoby is StartDocker with a current Docker, which since version 28 knows
// of loopback0 and drops what comes for ports on 127.0.0.1 from elsewhere, and
// since 29 has two firewall backends: "--firewall-backend=nftables". If this
// machine has none yet it is built from source first, in about three minutes.
func (h *Host) StartMoby(flags ...string) (*Docker, error) {
	programs, err := mobyPrograms()
	if err != nil {
		return nil, err
	}
	// With the backend nftables dockerd leaves this to the administrator.
	if err := h.Sysctl("ipv4/ip_forward", "1"); err != nil {
		return nil, err
	}
	return h.startDocker(mobyScript, slices.Concat([]string{programs}, flags)...)
}

// mobyBuild builds the tools that moby/go.mod names, so that they run on the
// tree whatever libc this machine has. runc has parts in C.
var mobyBuild = []string{
	"build", "-trimpath", "-buildvcs=false", "-tags=osusergo,netgo,static_build",
	"-ldflags=-s -w -linkmode=external -extldflags=-static", "-o",
}

// MobyVersion is the module, with its version, that StartMoby's dockerd was built
// from: the program itself does not know. It is built if it is not there yet.
func MobyVersion() (string, error) {
	programs, err := mobyPrograms()
	if err != nil {
		return "", err
	}
	built, err := buildinfo.ReadFile(filepath.Join(programs, "dockerd"))
	if err != nil {
		return "", err
	}
	return built.Main.Path + "@" + built.Main.Version, nil
}

// mobyPrograms returns the folder of a current dockerd, docker-proxy and runc,
// and builds them first if need be. It lies beside the Debian tree.
func mobyPrograms() (string, error) {
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/wslmirror/wslmirror/internal/lab").Output()
	if err != nil {
		return "", fmt.Errorf("find the module of a current Docker: %w", err)
	}
	module := filepath.Join(strings.TrimSpace(string(out)), "moby")
	recipe := sha256.New()
	fmt.Fprint(recipe, mobyBuild)
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", fmt.Errorf("read the module of a current Docker: %w", err)
		}
		recipe.Write(b)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	return cached(cache, fmt.Sprintf("moby-%x", recipe.Sum(nil)[:6]), func(dir string) error {
		fmt.Fprintf(os.Stderr, "lab: building a current Docker in %s, once, in about three minutes\n", dir)
		build := exec.Command("go", append(slices.Clone(mobyBuild), dir+"/", "tool")...)
		build.Dir = module
		build.Env = append(os.Environ(), "CGO_ENABLED=1", "GOWORK=off")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		build.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := onThread(build.Run); err != nil {
			return fmt.Errorf("build a current Docker (its messages are above): %w", err)
		}
		return nil
	})
}
