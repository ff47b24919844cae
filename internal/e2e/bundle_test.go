package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

func TestBundle(t *testing.T) {
	playMirrored(t)
	t.Setenv("USER", "zaphod")
	t.Setenv("NAME", "heart-of-gold")
	t.Setenv("SUDO_UID", "65534")
	t.Setenv("SUDO_GID", "65534")
	b := labtest.New(t, lab.Options{})
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	publishes(t, b, d)
	// Private data of every kind: routes, rules, addresses, chains.
	for _, script := range []string{
		"ip addr add 93.184.216.34/32 dev eth0", "ip -6 addr add 2a00:1450:4001:81b::200e/64 dev eth0 nodad",
		"ip route add 8.8.8.0/24 via 192.0.2.1", "ip rule add pref 100 from 9.9.9.9 lookup main",
		`nft 'table ip zaphod { comment "made on HEART-OF-GOLD in /home/zaphod by Zaphod"; chain c { ip saddr 1.1.1.1 tcp dport 80 accept; ip daddr 10.1.2.3 drop; }; }'`,
		`nft 'table ip6 x { chain c { ip6 saddr 2606:4700:4700::1111 drop; }; }'`,
	} {
		if _, err := b.WSL.Run("sh", "-c", script); err != nil {
			t.Fatal(err)
		}
	}
	// A dockerd with secrets in its options, and an option that forges a heading.
	dockerd := filepath.Join(t.TempDir(), "dockerd")
	if err := os.Symlink("/bin/sh", dockerd); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WSL.Start(exec.Command(dockerd, "-c", "while :; do sleep 1; done", "--http-proxy=http://arthur:dent42@10.0.0.1:3128",
		"--dns-search", "magrathea.example", "--userland-proxy=false", "--iptables=x\n==== forged ====\n")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "bundle.txt")
	cmd := program(t, "doctor", "--bundle", file, "--runtime-dir", d.dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := b.WSL.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("%v: %s", err, &out)
	}
	if !strings.HasPrefix(out.String(), "Wrote "+file+": No fault found") {
		t.Error(out.String())
	}
	fi, err := os.Stat(file)
	if err != nil || fi.Mode() != 0o600 || fi.Sys().(*syscall.Stat_t).Uid != 65534 {
		t.Errorf("%v, %+v", err, fi)
	}
	all, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(all)
	for _, want := range []string{
		"==== wslmirror doctor ====", "✓ ok   loopback0", "==== the network ====", "table 127", "169.254.73.249", "192.0.2.2", "0: from all fwmark 0x1000/0x1000",
		"==== wslmirror status --json ====", `"state": "active"`, "==== wslmirror ports ====", "8080/tcp", "2.9.5.0",
		"--http-proxy=…", "--dns-search …", "--userland-proxy=false", "==== nft list ruleset ====", "chain WSLPREROUTING", "ip daddr 10.1.2.3 drop", "==== journalctl", `"verdict": "ok"`, "<address-1>", "<user-", "<host-",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q", want)
		}
	}
	for _, private := range []string{
		"zaphod", "heart-of-gold", "93.184.216.34", "2a00:1450", "8.8.8.0", "9.9.9.9", "1.1.1.1", "2606:4700",
		"dent42", "magrathea", "\n==== forged",
	} {
		if strings.Contains(strings.ToLower(text), private) {
			t.Errorf("%q is in it", private)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
