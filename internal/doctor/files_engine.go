package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
)

// dockerVersion asks dockerd by its socket. net/http would be a third of the
// program for this one request: it is HTTP/1.0, so the answer comes whole and
// the connection ends with it.
func (f files) dockerVersion(ctx context.Context) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", f.path("var/run/docker.sock"))
	if errors.Is(err, fs.ErrPermission) {
		return "", errors.New("only root and the group docker may ask")
	}
	if err != nil {
		return "", errors.New("dockerd's socket is not at /var/run/docker.sock")
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_, err = io.WriteString(conn, "GET /version HTTP/1.0\r\nHost: docker\r\n\r\n")
	answer, readErr := io.ReadAll(io.LimitReader(conn, mostFile))
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	var v struct{ Version string }
	if err = errors.Join(err, readErr, json.Unmarshal([]byte(body), &v)); err != nil || v.Version == "" || !strings.Contains(head, " 200 ") {
		return "", errors.New("dockerd gave no version")
	}
	return v.Version, nil
}

// dockerSettings are those of dockerd's arguments and its configuration file. There
// is no way to ask dockerd for them.
func (f files) dockerSettings(args []string) (s DockerSettings, err error) {
	flags, path := dockerFlags(args), "/etc/docker/daemon.json"
	if p := flags["config-file"]; filepath.IsAbs(p) {
		path = p
	}
	conf := map[string]any{}
	b, err := f.read(path)
	if err == nil {
		err = json.Unmarshal(b, &conf)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	on := func(name string) bool { // as it is by default
		for _, v := range []any{flags[name], conf[name]} {
			if is, err := strconv.ParseBool(fmt.Sprint(v)); err == nil {
				return is
			}
		}
		return true
	}
	backend, _ := conf["firewall-backend"].(string)
	s = DockerSettings{on("userland-proxy"), cmp.Or(flags["firewall-backend"], backend, "iptables")}
	if !on("iptables") {
		s.Firewall = "none"
	}
	return s, nil
}

// dockerFlags are dockerd's flags by their names. A flag without a value has the
// next word as one; where it is a boolean flag, that does no harm.
func dockerFlags(args []string) map[string]string {
	flags := map[string]string{}
	for i, a := range args {
		name, found := strings.CutPrefix(a, "--")
		if !found {
			continue
		}
		name, value, found := strings.Cut(name, "=")
		if !found && i+1 < len(args) {
			value = args[i+1]
		}
		flags[name] = value
	}
	return flags
}

// podmanVersion is "" where there is no Podman.
func podmanVersion(ctx context.Context) (string, error) {
	if _, err := exec.LookPath("podman"); err != nil {
		return "", nil
	}
	out, err := output(ctx, "podman", "--version")
	if err != nil {
		return "", err
	}
	words := strings.Fields(string(out)) // podman version 5.4.2
	if len(words) != 3 || major(words[2]) == 0 {
		return "", errors.New("podman --version printed something else")
	}
	return words[2], nil
}

// output is what a program prints. It ends with ctx.
func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 100 * time.Millisecond // for what keeps its output open
	return cmd.Output()
}

// forceListen is force_port_listen of the section [engine] of containers.conf(5),
// of which the last that is read counts.
func (f files) forceListen() (on bool, err error) {
	names := []string{"usr/share/containers/containers.conf", "etc/containers/containers.conf"}
	names = append(names, f.confs("etc/containers/containers.conf.d")...)
	for _, name := range names {
		lines, err := f.lines(name)
		if err != nil {
			return false, err
		}
		if v, found := setting(lines, "engine", "force_port_listen"); found {
			on = v == "true"
		}
	}
	return on, nil
}

// wslConfig is the Windows user's .wslconfig. Whose that is nobody tells: there is
// mostly one.
func (f files) wslConfig() (c WSLConfig, err error) {
	const users = "mnt/c/Users"
	if !f.exists(users) {
		return c, errors.New("drive C: of Windows is not at /mnt/c")
	}
	paths, _ := filepath.Glob(filepath.Join(f.path(users), "*", ".wslconfig"))
	for i, p := range paths {
		name := filepath.Join(users, filepath.Base(filepath.Dir(p)), ".wslconfig")
		b, err := f.read(name)
		if err != nil {
			return c, errors.New("a .wslconfig cannot be read")
		}
		lines := strings.Split(plain(b), "\n")
		mode, _ := setting(lines, "wsl2", "networkingMode")
		loopback, _ := setting(lines, "experimental", "hostAddressLoopback")
		one := WSLConfig{strings.ToLower(mode), strings.EqualFold(loopback, "true")}
		if i > 0 && c != one {
			return WSLConfig{}, errors.New("several Windows users have a .wslconfig, and they differ")
		}
		c = one
	}
	return c, nil
}

// setting is the value of a key in a section of an INI or TOML file. Upper and
// lower case are the same, as they are to WSL.
func setting(lines []string, section, key string) (value string, found bool) {
	in := false
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, "[") {
			in = strings.EqualFold(strings.Trim(l, "[] "), section)
			continue
		}
		k, v, ok := strings.Cut(l, "=")
		if in && ok && strings.EqualFold(strings.TrimSpace(k), key) {
			v, _, _ = strings.Cut(v, "#")
			value, found = strings.Trim(strings.TrimSpace(v), `"`), true
		}
	}
	return value, found
}

// plain is the text of a file that Windows' Notepad may have written: UTF-8 or
// UTF-16, with a byte order mark.
func plain(b []byte) string {
	if len(b) >= 2 && b[0] == 0xff && b[1] == 0xfe {
		var units []uint16
		for b = b[2:]; len(b) >= 2; b = b[2:] {
			units = append(units, uint16(b[0])|uint16(b[1])<<8)
		}
		return string(utf16.Decode(units))
	}
	return strings.TrimPrefix(string(b), "\ufeff")
}
