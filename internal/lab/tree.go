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

// The real engines and distributions of the bench run from a Debian tree, so
// that nothing is installed on the machine itself and the versions are the same
// everywhere. Bookworm, because its docker.io 20.10 has the fault.
const treeSuite = "bookworm"

// debianKeys is of the Debian package debian-archive-keyring, which every
// Debian has and other systems may lack.
const debianKeys = "/usr/share/keyrings/debian-archive-keyring.gpg"

// treePackages is what the tree has beside Debian's essential packages and apt.
var treePackages = []string{
	"dbus",
	"docker.io",
	"iproute2",
	"iptables",
	"libpam-systemd",
	"nftables",
	"procps",
	"systemd",
	"systemd-sysv",
}

// treeSteps run at the end of the build, with the tree in $1.
var treeSteps = []string{
	// An ordinary user, for Distro.RunAs.
	`chroot "$1" useradd --create-home --shell /bin/bash user`,
	// In a booted distribution an engine runs only if a test starts it.
	`chroot "$1" systemctl disable docker.service docker.socket containerd.service`,
	// mmdebstrap copies these from the machine.
	`echo debian >"$1/etc/hostname"; : >"$1/etc/resolv.conf"`,
	// By this file a program knows that it runs in WSL.
	`printf '#!/bin/sh\necho mirrored\n' >"$1/usr/bin/wslinfo"; chmod 755 "$1/usr/bin/wslinfo"`,
	// The bench configures the network, as WSL does. Resolving names would
	// only make a test wait for an answer that cannot come.
	`chroot "$1" systemctl mask systemd-networkd.service systemd-resolved.service`,
	`echo 'passwd: files systemd
group: files systemd
shadow: files
hosts: files' >"$1/etc/nsswitch.conf"`,
}

// Tree returns the folder of the Debian tree and builds it first if this
// machine has none yet, which takes about half a minute and wants root and the
// Debian packages mmdebstrap and debian-archive-keyring. The tree lies in
// $WSLMIRROR_LAB_CACHE, or else in the user's cache folder, and is shared by
// every bench of the machine: nobody may write to it. See startOnTree.
func Tree() (string, error) {
	cache := os.Getenv("WSLMIRROR_LAB_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(user, "wslmirror-lab")
	}
	cache, err := filepath.Abs(cache)
	if err != nil {
		return "", err
	}
	recipe := strings.Join(slices.Concat([]string{treeSuite}, treePackages, treeSteps), "\n")
	name := fmt.Sprintf("%s-%x", treeSuite, sha256.Sum256([]byte(recipe)))[:len(treeSuite)+13]
	return cached(cache, name, buildTree)
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

// buildTree makes the Debian tree in dir.
func buildTree(dir string) error {
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return fmt.Errorf("build a Debian tree: %w: apt-get install mmdebstrap", err)
	}
	if _, err := os.Stat(debianKeys); err != nil {
		return fmt.Errorf("build a Debian tree: %w: apt-get install debian-archive-keyring", err)
	}
	args := []string{
		"--mode=root", "--format=directory", "--variant=apt", "--keyring=" + debianKeys,
		"--include=" + strings.Join(treePackages, ","),
	}
	for _, option := range aptOptions() {
		args = append(args, "--aptopt="+option)
	}
	for _, step := range treeSteps {
		args = append(args, "--customize-hook="+step)
	}
	args = append(append(args, treeSuite, dir), aptSources()...)
	fmt.Fprintf(os.Stderr, "lab: building a Debian %s tree in %s, once, in about half a minute\n", treeSuite, dir)
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

// aptSources returns the lines of this machine's own package sources that
// serve Debian bookworm, because they are the ones that it can reach. None,
// on another system, makes mmdebstrap use Debian's own.
func aptSources() []string {
	// Origin is known once the machine has run apt-get update.
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)",
		"Created-By: Packages", "Origin: Debian", "Component: main").Output()
	if err != nil {
		return nil
	}
	suites := []string{treeSuite, treeSuite + "-updates", treeSuite + "-security"}
	var sources []string
	for line := range strings.Lines(string(out)) {
		uri, release, _ := strings.Cut(strings.TrimSpace(line), " ")
		source := fmt.Sprintf("deb %s %s main", uri, release)
		if slices.Contains(suites, release) && !slices.Contains(sources, source) {
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
