package doctor

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// files reads files below Config.Root.
type files struct{ root string }

// mostFile is larger than any file that is read here, in bytes.
const mostFile = 1 << 20

func (f files) path(name string) string { return filepath.Join(f.root, name) }

func (f files) exists(name string) bool {
	_, err := os.Stat(f.path(name))
	return err == nil
}

// read reads a regular file.
func (f files) read(name string) ([]byte, error) {
	r, err := os.OpenFile(f.path(name), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if fi, err := r.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", r.Name())
	}
	return io.ReadAll(io.LimitReader(r, mostFile))
}

// lines are the lines of a file without empty lines and comments. A missing file
// has none.
func (f files) lines(name string) (list []string, err error) {
	b, err := f.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	in := bufio.NewScanner(bytes.NewReader(b))
	for in.Scan() {
		if line := strings.TrimSpace(in.Text()); line != "" && line[0] != '#' && line[0] != ';' {
			list = append(list, line)
		}
	}
	return list, err
}

// nftablesEnabled reports whether "systemctl enable nftables" was run.
func (f files) nftablesEnabled() bool {
	links, _ := filepath.Glob(f.path("etc/systemd/system/*.wants/nftables.service"))
	return len(links) > 0
}

// sysctls reads the sysctls of all links.
func (f files) sysctls() (map[string]Conf, error) {
	const dir = "proc/sys/net/ipv4/conf"
	links, err := os.ReadDir(f.path(dir))
	if err != nil {
		return nil, err
	}
	all := map[string]Conf{}
	for _, l := range links {
		var c Conf
		for name, to := range map[string]*int{
			"rp_filter": &c.RPFilter, "accept_local": &c.AcceptLocal, "route_localnet": &c.RouteLocalnet,
		} {
			b, err := f.read(filepath.Join(dir, l.Name(), name))
			if errors.Is(err, fs.ErrNotExist) {
				continue // the link has just disappeared
			}
			if err == nil {
				*to, err = strconv.Atoi(strings.TrimSpace(string(b)))
			}
			if err != nil {
				return nil, err
			}
		}
		all[l.Name()] = c
	}
	return all, nil
}

// legacyTables are the tables of iptables-legacy, which only root can
// read.
func (f files) legacyTables() ([]string, error) {
	tables, err := f.lines("proc/net/ip_tables_names")
	if errors.Is(err, fs.ErrPermission) {
		return nil, errors.New("only root can read them")
	}
	slices.Sort(tables)
	return tables, err
}

// daemons counts the wslmirrors in this network by the unix socket on which the
// active one listens, and to which the others are connected: see
// internal/mirror/beacon.go.
func (f files) daemons() (n int, err error) {
	lines, err := f.lines("proc/net/unix")
	for _, l := range lines {
		if fields := strings.Fields(l); len(fields) >= 7 && fields[len(fields)-1] == "@wslmirror" {
			n++
		}
	}
	return n, err
}

// programs are the processes in this network that a check needs.
func (f files) programs() (list []Program, err error) {
	dirs, err := os.ReadDir(f.path("proc"))
	if err != nil {
		return nil, err
	}
	here, _ := os.Readlink(f.path("proc/self/ns/net"))
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("proc", d.Name())
		b, err := f.read(filepath.Join(dir, "comm"))
		name := strings.TrimSpace(string(b))
		if err != nil || !strings.HasPrefix(name, "wslmirror") && !slices.Contains(known, name) {
			continue
		}
		// The namespace of another user's process is not readable. Programs with these
		// names mostly run in the main one.
		there, err := os.Readlink(f.path(filepath.Join(dir, "ns/net")))
		if err == nil && there != here {
			continue
		}
		sure := err == nil
		b, _ = f.read(filepath.Join(dir, "cmdline"))
		args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
		groups, _ := f.lines(filepath.Join(dir, "cgroup"))
		service := slices.ContainsFunc(groups, func(l string) bool { return strings.HasSuffix(l, "/wslmirror.service") })
		list = append(list, Program{pid, name, args, sure, service})
	}
	slices.SortFunc(list, func(a, b Program) int { return a.PID - b.PID })
	return list, nil
}

// known are the names of the processes that a check needs, as the kernel stores them,
// up to 15 bytes.
var known = []string{"dockerd", "firewalld", "NetworkManager", dockerDesktop}

// dockerDesktop is the beginning of docker-desktop-user-distro, through which Docker
// Desktop works in a distribution.
const dockerDesktop = "docker-desktop-"

// confs are the files *.conf in dir.
func (f files) confs(dir string) (names []string) {
	paths, _ := filepath.Glob(filepath.Join(f.path(dir), "*.conf"))
	for _, p := range paths {
		names = append(names, filepath.Join(dir, filepath.Base(p)))
	}
	return names
}
