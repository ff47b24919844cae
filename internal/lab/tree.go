package lab

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// debianKeys is of the Debian package debian-archive-keyring, which every
// Debian has and other systems may lack.
const debianKeys = "/usr/share/keyrings/debian-archive-keyring.gpg"

// A tree is a Debian system in a folder. The real engines and distributions of
// the bench run from one, so that nothing is installed on the machine itself and
// the versions are the same everywhere.
type tree struct {
	suite string
	// packages are there beside Debian's essential packages and apt.
	packages []string
	// steps run at the end of the build, after commonSteps, with the tree in $1.
	steps []string
}

var commonSteps = []string{
	// mmdebstrap copies these from the machine.
	`echo debian >"$1/etc/hostname"; : >"$1/etc/resolv.conf"`,
	// Resolving names would only make a program wait for an answer that cannot
	// come.
	`echo 'passwd: files systemd
group: files systemd
shadow: files
hosts: files' >"$1/etc/nsswitch.conf"`,
}

// bookworm, Debian 12, has all but the newest engines. Its docker.io 20.10 has
// the fault, and its podman is the last that can do with CNI.
var bookworm = tree{
	suite: "bookworm",
	packages: []string{
		"aardvark-dns",
		"containernetworking-plugins",
		"crun",
		"dbus",
		"docker.io",
		"iproute2",
		"iptables",
		"libpam-systemd",
		"netavark",
		"nftables",
		"podman",
		"procps",
		"systemd",
		"systemd-sysv",
	},
	steps: []string{
		// An ordinary user, for Distro.RunAs.
		`chroot "$1" useradd --create-home --shell /bin/bash user`,
		// In a booted distribution an engine runs only if a test starts it.
		`chroot "$1" systemctl disable docker.service docker.socket containerd.service \
			podman.service podman.socket podman-auto-update.service podman-auto-update.timer podman-restart.service`,
		// By this file a program knows that it runs in WSL.
		`printf '#!/bin/sh\necho mirrored\n' >"$1/usr/bin/wslinfo"; chmod 755 "$1/usr/bin/wslinfo"`,
		// The bench configures the network, as WSL does.
		`chroot "$1" systemctl mask systemd-networkd.service systemd-resolved.service`,
	},
}

// trixie, Debian 13, is there for a netavark that can do with nftables.
var trixie = tree{
	suite:    "trixie",
	packages: []string{"aardvark-dns", "crun", "netavark", "nftables", "podman", "systemd", "tini"},
	steps:    []string{`ln -s tini-static "$1/usr/bin/docker-init"`}, // as bookworm's docker.io has it
}

// Tree returns the folder of the Debian 12 tree and builds it first if this
// machine has none yet, which takes about half a minute and wants root and the
// Debian packages mmdebstrap and debian-archive-keyring. The tree lies in
// $WSLMIRROR_LAB_CACHE, or else in the user's cache folder, and is shared by
// every bench of the machine: nobody may write to it. See startOnTree.
func Tree() (string, error) { return bookworm.dir() }

// dir is Tree for any tree.
func (t tree) dir() (string, error) {
	recipe := strings.Join(slices.Concat([]string{t.suite}, t.packages, commonSteps, t.steps), "\n")
	name := fmt.Sprintf("%s-%x", t.suite, sha256.Sum256([]byte(recipe)))[:len(t.suite)+13]
	return Cached(name, t.build)
}

// Cached returns a folder of what is built once for every bench of the machine. If it is
// not there yet, build fills it first.
func Cached(name string, build func(dir string) error) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	return cached(cache, name, build)
}

// cacheDir returns the folder of what is built once for every bench of the
// machine.
func cacheDir() (string, error) {
	if dir := os.Getenv("WSLMIRROR_LAB_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "wslmirror-lab"), err
}

// cached returns the folder cache/name. If it is not there, build fills it
// under a temporary name first, so that a folder of that name is always
// complete. A lock makes concurrent callers, in other processes too, build once.
func cached(cache, name string, build func(dir string) error) (string, error) {
	dir := filepath.Join(cache, name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close() // which also unlocks
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		fmt.Fprintf(os.Stderr, "lab: waiting for another process to build %s\n", dir)
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(dir); err == nil { // built while we waited
		return dir, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	unfinished := dir + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil { // of a build that was killed
		return "", err
	}
	if err := build(unfinished); err != nil {
		return "", errors.Join(err, os.RemoveAll(unfinished))
	}
	return dir, os.Rename(unfinished, dir)
}

// build makes the tree in dir.
func (t tree) build(dir string) error {
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return fmt.Errorf("build a Debian tree: %w: apt-get install mmdebstrap", err)
	}
	if _, err := os.Stat(debianKeys); err != nil {
		return fmt.Errorf("build a Debian tree: %w: apt-get install debian-archive-keyring", err)
	}
	args := []string{
		"--mode=root", "--format=directory", "--variant=apt", "--keyring=" + debianKeys,
		"--include=" + strings.Join(t.packages, ","),
	}
	for _, option := range aptOptions() {
		args = append(args, "--aptopt="+option)
	}
	for _, step := range slices.Concat(commonSteps, t.steps) {
		args = append(args, "--customize-hook="+step)
	}
	args = append(append(args, t.suite, dir), AptSources(t.suite)...)
	fmt.Fprintf(os.Stderr, "lab: building a Debian %s tree in %s, once, in about half a minute\n", t.suite, dir)
	// In namespaces of its own the build cannot outlive us, nor leave the
	// machine's /dev mounted in a folder that cached is about to remove.
	cmd := exec.Command("/bin/sh", append([]string{"-ec", `
		mount --make-rprivate /
		mount -t proc proc /proc
		exec mmdebstrap "$@"`, "mmdebstrap"}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := onThread(cmd.Run); err != nil {
		return fmt.Errorf("build a Debian tree with mmdebstrap (its messages are above): %w", err)
	}
	return nil
}

// AptSources returns lines for a suite of Debian from where this machine has its
// own Debian packages, because that is what it can reach. None, on another
// system, makes mmdebstrap use Debian's own.
func AptSources(suite string) []string {
	// Origin is known once the machine has run apt-get update.
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)",
		"Created-By: Packages", "Origin: Debian", "Component: main").Output()
	if err != nil {
		return nil
	}
	var sources []string
	for line := range strings.Lines(string(out)) {
		uri, release, _ := strings.Cut(strings.TrimSpace(line), " ")
		_, pocket, _ := strings.Cut(release, "-")
		if !slices.Contains([]string{"", "updates", "security"}, pocket) {
			continue
		}
		source := fmt.Sprintf("deb %s %s main", uri, strings.TrimSuffix(suite+"-"+pocket, "-"))
		if !slices.Contains(sources, source) {
			sources = append(sources, source)
		}
	}
	return sources
}

// aptOptions returns how this machine's apt reaches its sources: through a
// proxy, say.
func aptOptions() []string {
	out, err := exec.Command("apt-config", "dump", "Acquire").Output()
	if err != nil {
		return nil
	}
	var options []string
	for line := range strings.Lines(string(out)) {
		for _, wanted := range []string{"Acquire::http", "Acquire::Check-", "Acquire::Retries"} {
			if strings.HasPrefix(line, wanted) {
				options = append(options, strings.TrimSpace(line))
			}
		}
	}
	return options
}
