package doctor

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// tree makes files in a new folder. A file "x/" is a folder.
func tree(t *testing.T, content map[string]string) files {
	t.Helper()
	f := files{t.TempDir()}
	for name, text := range content {
		if err := os.MkdirAll(filepath.Dir(f.path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(f.path(name), 0o755); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(f.path(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestDockerSettings(t *testing.T) {
	defaults := DockerSettings{true, "iptables"}
	for _, test := range []struct {
		json, args string
		want       DockerSettings
		fails      bool
	}{
		{"", "dockerd", defaults, false},
		{"{}", "dockerd -H fd:// --containerd=/run/containerd.sock", defaults, false},
		{`{"userland-proxy": false}`, "dockerd", DockerSettings{false, "iptables"}, false},
		{`{"firewall-backend": "nftables"}`, "dockerd", DockerSettings{true, "nftables"}, false},
		{`{"iptables": false}`, "dockerd", DockerSettings{true, "none"}, false},
		{"", "dockerd --userland-proxy=false --firewall-backend nftables", DockerSettings{false, "nftables"}, false},
		{"", "dockerd --userland-proxy --iptables=0", DockerSettings{true, "none"}, false},
		{"", "dockerd --config-file /elsewhere.json", DockerSettings{false, "iptables"}, false},
		{"{", "dockerd", defaults, true},
		{"[]", "dockerd", defaults, true},
	} {
		content := map[string]string{"elsewhere.json": `{"userland-proxy": false}`}
		if test.json != "" {
			content["etc/docker/daemon.json"] = test.json
		}
		got, err := tree(t, content).dockerSettings(strings.Fields(test.args))
		if (err != nil) != test.fails || err == nil && got != test.want {
			t.Errorf("%+v: %+v, %v", test, got, err)
		}
	}
}

func TestDockerVersion(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"Version\":\"29.1.3\",\"ApiVersion\":\"1.52\"}\n": "29.1.3",
		"HTTP/1.0 404 Not Found\r\n\r\n{}":    "",
		"HTTP/1.0 200 OK\r\n\r\n{\"Version\"": "",
		"":                                    "",
		strings.Repeat("x", 2*mostFile):       "",
	} {
		// A socket's path may not be long.
		dir, err := os.MkdirTemp("", "doctor")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		f := files{dir}
		if err := os.MkdirAll(f.path("var/run"), 0o755); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", f.path("var/run/docker.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1000))
			io.WriteString(c, answer)
			c.Close()
		}()
		got, err := f.dockerVersion(t.Context())
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%.60q: %q, %v; want %q", answer, got, err, want)
		}
	}
}

// A dockerd that does not answer does not hold anybody up.
func TestDockerVersionEnds(t *testing.T) {
	dir, err := os.MkdirTemp("", "doctor")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	f := files{dir}
	os.MkdirAll(f.path("var/run"), 0o755)
	l, err := net.Listen("unix", f.path("var/run/docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if v, err := f.dockerVersion(ctx); err == nil {
		t.Errorf("%q", v)
	}
}

// A stand-in for nmcli says what NetworkManager would.
func TestManaged(t *testing.T) {
	for script, want := range map[string]string{
		"echo '10 (unmanaged)'": "false", "echo '10 (nicht verwaltet)'": "false", "echo '100 (connected)'": "true", "echo 20": "true",
		"echo no": "error", "exit 10": "error", "exec sleep 60": "error", "printf '\\n'": "error",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "nmcli"), []byte("#!/bin/sh\n[ \"$*\" = '-g GENERAL.STATE device show loopback0' ] && "+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":/bin")
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		got, err := managed(ctx, "loopback0")
		cancel()
		if text := fmt.Sprint(got); err == nil && text != want || (err != nil) != (want == "error") {
			t.Errorf("%s: %v, %v", script, got, err)
		}
	}
}

func TestPodman(t *testing.T) {
	for script, want := range map[string]string{
		"echo podman version 5.4.2":       "5.4.2",
		"echo podman version 6.1.0-dev":   "6.1.0-dev",
		"echo no":                         "",
		"exit 3":                          "",
		"printf 'podman version \\033[m'": "",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "podman"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir)
		got, err := podmanVersion(t.Context())
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", script, got, err)
		}
	}

	const on, off = "[containers]\nlog_driver = \"none\"\n[engine]\nforce_port_listen = true # for WSL\n", "[engine]\nforce_port_listen=false\n"
	for _, test := range []struct {
		content map[string]string
		want    bool
	}{
		{nil, false},
		{map[string]string{"etc/containers/containers.conf": on}, true},
		{map[string]string{"etc/containers/containers.conf": "[network]\nforce_port_listen = true\n"}, false},
		{map[string]string{"etc/containers/containers.conf": "[engine]\n# force_port_listen = true\n"}, false},
		{map[string]string{"etc/containers/containers.conf": off, "etc/containers/containers.conf.d/wsl.conf": on}, true},
		{map[string]string{"usr/share/containers/containers.conf": on, "etc/containers/containers.conf": off}, false},
	} {
		if got, err := tree(t, test.content).forceListen(); got != test.want || err != nil {
			t.Errorf("%v: %v, %v", test.content, got, err)
		}
	}
}

func TestFiles(t *testing.T) {
	f := tree(t, map[string]string{
		"proc/net/ip_tables_names":                  "nat\nfilter\n",
		"proc/net/unix":                             "Num RefCount Protocol Flags Type St Inode Path\n0: 00000002 00000000 00010000 0001 01 5 @wslmirror\n0: 00000002 00000000 00000000 0001 02 0 @wslmirror\n0: 2 0 0 1 1 6 @wslmirror2\n",
		"proc/sys/net/ipv4/conf/all/rp_filter":      "0\n",
		"proc/sys/net/ipv4/conf/all/accept_local":   "0\n",
		"proc/sys/net/ipv4/conf/all/route_localnet": "1\n",
	})
	if tables, err := f.legacyTables(); err != nil || !slices.Equal(tables, []string{"filter", "nat"}) {
		t.Errorf("tables: %v, %v", tables, err)
	}
	if n, err := f.daemons(); err != nil || n != 2 {
		t.Errorf("daemons: %d, %v", n, err)
	}
	if all, err := f.sysctls(); err != nil || len(all) != 1 || all["all"] != (Conf{0, 0, 1}) {
		t.Errorf("sysctls: %v, %v", all, err)
	}
	// Nothing there is nothing seen, and no error.
	empty := tree(t, map[string]string{"etc/systemd/system/sysinit.target.wants/x": ""})
	if empty.nftablesEnabled() {
		t.Error("nftables.service is enabled")
	}
	if err := os.Symlink("/usr/lib/systemd/system/nftables.service", empty.path("etc/systemd/system/sysinit.target.wants/nftables.service")); err != nil {
		t.Fatal(err)
	}
	if !empty.nftablesEnabled() {
		t.Error("nftables.service is not enabled")
	}
	if tables, err := empty.legacyTables(); err != nil || len(tables) != 0 {
		t.Errorf("tables: %v, %v", tables, err)
	}
}

func TestPrograms(t *testing.T) {
	content := map[string]string{}
	for pid, p := range map[int][2]string{
		10: {"dockerd", "dockerd\x00--userland-proxy=false\x00"},
		20: {"bash", "bash\x00"},
		30: {"wslmirror", "/usr/bin/wslmirror\x00run\x00"},
		40: {"wslmirror", "wslmirror\x00doctor\x00"},
	} {
		content[fmt.Sprintf("proc/%d/comm", pid)] = p[0] + "\n"
		content[fmt.Sprintf("proc/%d/cmdline", pid)] = p[1]
	}
	content["proc/self/x"], content["proc/50/"] = "", "" // has just ended
	content["proc/30/cgroup"] = "1:name=systemd:/system.slice/wslmirror.service\n0::/init.scope\n"
	content["proc/40/cgroup"] = "0::/user.slice/user-1000.slice/wslmirror.service.scope\n"
	list, err := tree(t, content).programs()
	if err != nil || len(list) != 3 || list[0].PID != 10 || !slices.Equal(list[0].Args, []string{"dockerd", "--userland-proxy=false"}) {
		t.Fatalf("%+v, %v", list, err)
	}
	if list[0].isDaemon() || !list[1].isDaemon() || list[2].isDaemon() || list[0].Service || !list[1].Service || list[2].Service {
		t.Errorf("%+v", list)
	}
}
