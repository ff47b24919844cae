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

	"github.com/wslmirror/wslmirror/internal/text"
)

// dockerVersion asks dockerd through its socket. net/http would be a third of the
// program for this one request. It is HTTP/1.0, so the answer is not chunked and
// the connection ends after it.
func (f files) dockerVersion(ctx context.Context) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", f.path("var/run/docker.sock"))
	if errors.Is(err, fs.ErrPermission) {
		return "", errors.New("only root and the group docker can ask dockerd")
	}
	if err != nil {
		return "", errors.New("there is no socket of dockerd at /var/run/docker.sock")
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_, err = io.WriteString(conn, "GET /version HTTP/1.0\r\nHost: docker\r\n\r\n")
	answer, readErr := io.ReadAll(io.LimitReader(conn, mostFile))
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	var v struct{ Version string }
	if err = errors.Join(err, readErr, json.Unmarshal([]byte(body), &v)); err != nil || v.Version == "" || !strings.Contains(head, " 200 ") {
		return "", errors.New("dockerd did not report a version")
	}
	return v.Version, nil
}

// dockerSettings are the settings in dockerd's arguments and its configuration file. dockerd
// itself does not report them.
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
	on := func(name string) bool { // true by default
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

// dockerFlags are dockerd's flags by their names. A flag without a value gets the
// next word as its value. For a boolean flag, that does no harm.
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

func podmanVersion(ctx context.Context) (string, error) {
	out, err := output(ctx, "podman", "--version")
	if err != nil {
		return "", err
	}
	words := strings.Fields(string(out)) // podman version 5.4.2
	if len(words) != 3 || major(words[2]) == 0 {
		return "", errors.New("podman --version did not print a version")
	}
	return words[2], nil
}

// output is the standard output of a program. The program ends with ctx.
func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 100 * time.Millisecond // a child may keep its output open
	return cmd.Output()
}

// forceListen is force_port_listen of the section [engine] of containers.conf(5),
// where the last file wins.
func (f files) forceListen() (on bool, err error) {
	names := []string{"usr/share/containers/containers.conf", "etc/containers/containers.conf"}
	names = append(names, f.confs("etc/containers/containers.conf.d")...)
	for _, name := range names {
		lines, err := f.lines(name)
		if err != nil {
			return false, err
		}
		if v, found := text.Setting(lines, "engine", "force_port_listen"); found {
			on = v == "true"
		}
	}
	return on, nil
}
