package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever daemon.json has and dockerd was told, the settings are some that can be
// judged, or an error; and of the arguments none is shown but those that are judged.
func FuzzDockerSettings(f *testing.F) {
	f.Add([]byte(`{"userland-proxy": false, "iptables": true, "firewall-backend": "nftables"}`), "dockerd --iptables=0")
	f.Add([]byte(`{"iptables": null}`), "dockerd --userland-proxy false --config-file x")
	f.Add([]byte(`[]`), "--= = --")
	f.Add([]byte("{"), "\x00\n")
	dir := f.TempDir()
	path := filepath.Join(dir, "etc/docker/daemon.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, conf []byte, line string) {
		if err := os.WriteFile(path, conf, 0o644); err != nil {
			t.Fatal(err)
		}
		args := strings.Split(line, " ")
		if s, err := (files{dir}).dockerSettings(args); err == nil && s.Firewall == "" {
			t.Errorf("%+v", s)
		}
		for name := range dockerFlags(args) {
			if !strings.Contains(line, "--"+name) {
				t.Errorf("%q of %q", name, line)
			}
		}
		const secret = "zaphod:beeblebrox"
		p := Program{1, "dockerd", append(args, "--http-proxy", secret, "--label="+secret), true, false}
		shown := strings.Join(p.Shown(), " ")
		if strings.Contains(shown, "\n") || strings.HasSuffix(shown, secret) || strings.Contains(shown, "--http-proxy "+secret) {
			t.Errorf("%q", shown)
		}
	})
}

// Whatever nmcli prints, it is a state or an error.
func FuzzManaged(f *testing.F) {
	f.Add("10 (unmanaged)\n")
	f.Add("100 (connected)")
	f.Add("-1")
	f.Fuzz(func(t *testing.T, out string) {
		if is, err := parseManaged(out); is && (err != nil || !strings.ContainsAny(out, "123456789")) {
			t.Errorf("%q: %v, %v", out, is, err)
		}
	})
}
