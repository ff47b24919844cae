package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/status"
)

// playWindows puts stand-ins for netsh.exe, netstat.exe and wslinfo in front of
// PATH. They print what these do, in the shape that these give it and in one language.
func playWindows(t *testing.T, language string) {
	t.Helper()
	recorded, err := filepath.Abs("../../internal/windows/testdata")
	if err != nil {
		t.Fatal(err)
	}
	dir := playProgram(t, "netsh.exe", `#!/bin/sh
case "$*" in
"int ipv4 show excludedportrange protocol=tcp") cat `+recorded+`/excluded.`+language+` ;;
"int ipv4 show excludedportrange protocol=udp") cat `+recorded+`/excluded.none ;;
"int ipv4 show dynamicportrange protocol="*) cat `+recorded+`/dynamic.`+language+` ;;
*) echo "unexpected: $*"; exit 1 ;;
esac
`)
	for name, script := range map[string]string{
		"netstat.exe": `#!/bin/sh
case "$*" in
"-ano -p tcp") cat ` + recorded + `/netstat.` + language + ` ;;
"-ano -p udp") cat ` + recorded + `/netstat.udp ;;
*) exit 1 ;;
esac
`,
		"wslinfo": "#!/bin/sh\n[ $1 = --networking-mode ] && echo mirrored || echo ${WSL_VERSION:-2.9.5.0}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// playProgram puts one program in front of PATH, and returns its directory.
func playProgram(t *testing.T, name, content string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// on runs the program in a host to its end.
func on(t *testing.T, h *lab.Host, args ...string) (code int, stdout string) {
	t.Helper()
	return ends(t, h, program(args...))
}

func ends(t *testing.T, h *lab.Host, cmd *exec.Cmd) (code int, stdout string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	p, err := h.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	p.Wait()
	if errs.Len() > 0 {
		t.Errorf("on standard error: %s", errs.String())
	}
	return p.Cmd.ProcessState.ExitCode(), out.String()
}

// wantAll checks that each of want is in text.
func wantAll(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("does not say %q:\n%s", w, text)
		}
	}
}

// A network with everything: an engine with a proxy, a port that nobody has
// bound, a server, and a Windows.
func TestPorts(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	engine, err := b.StartStandIn()
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Publish("tcp", "0.0.0.0:8080"); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"127.0.0.1:9000", "127.0.0.53:53", "192.0.2.2:9002"} {
		if _, err := b.WSL.ServeEcho("tcp", addr); err != nil {
			t.Fatal(err)
		}
	}
	// As CNI publishes: by rules alone.
	if _, err := b.WSL.Run("nft", "add table ip cni; add chain ip cni CNI-DNAT { type nat hook prerouting priority dstnat; }; "+
		"add rule ip cni CNI-DNAT tcp dport 8090 dnat to 172.17.0.2:80"); err != nil {
		t.Fatal(err)
	}
	// Whatever it is asked, wslmirror sends nothing to anybody.
	if _, err := b.WSL.Run("nft", "add table inet spy; add chain inet spy out { type filter hook output priority -300; }; "+
		"add rule inet spy out meta l4proto { tcp, udp } counter"); err != nil {
		t.Fatal(err)
	}
	for _, language := range []string{"en", "ja", "ko"} {
		t.Run(language, func(t *testing.T) {
			playWindows(t, language)
			d := start(t, b.WSL)
			if s := d.awaitState(status.Active); s.SourcePorts == nil || *s.SourcePorts != (status.PortRange{First: b.FirstPort, Last: b.LastPort}) {
				t.Errorf("the daemon tells source ports %v", s.SourcePorts)
			}
			code, text := on(t, b.WSL, "ports", "--runtime-dir", d.dir)
			if code != exitOK {
				t.Errorf("exit %d", code)
			}
			dynamic := "49152-65535"
			if language == "ja" {
				dynamic = "1024-15000"
			}
			wantAll(t, text,
				"✗ 8090/tcp is published by cni, but nobody in Linux listens on it",
				"docker: 172.17.0.2:80   localhost, to the engine's proxy",
				"nobody", "no: Windows does not know of it", "no: only 127.0.0.1 is mirrored", "by that address",
				"60700-60999, 300 ports", "60700-60999 is reserved: the block lies in it", "containers' included",
				"80, 1628-1727, 2222*, 2223-2322, 5357, 50000-50059*", "udp   none", dynamic, "135, 139, 445, 9001", "1900, 5353",
			)
			if !strings.HasPrefix(text, "✗ 8090") {
				t.Errorf("the fault does not come first:\n%s", text)
			}

			var got portsJSON
			_, text = on(t, b.WSL, "ports", "--json", "--runtime-dir", d.dir)
			if err := json.Unmarshal([]byte(text), &got); err != nil {
				t.Fatal(err)
			}
			if w := got.Windows; len(w.TCP.Excluded) != 6 || !w.TCP.Excluded[2].Administered || w.UDP.Excluded == nil || len(w.TCP.Listeners) != 5 || len(w.Problems) != 0 {
				t.Errorf("Windows: %+v", w)
			}
			if p := got.Published; len(p) != 2 || !p[0].Listened || p[1].Listened || !got.Mirrored || got.Mode != "mirrored" {
				t.Errorf("%+v", got)
			}
			if b := got.Block; b.Size != 300 || b.FirstPass != 150 || b.Widened == nil || *b.Widened || !b.Containers {
				t.Errorf("block: %+v", b)
			}
			for _, test := range []struct {
				port, says string
				code       int
			}{
				{"3000/udp", "✓ 3000/udp is free", exitOK},
				{"8080", "docker publishes it on 0.0.0.0, for the container at 172.17.0.2:80", exitFailure},
				{"1650/tcp", "net stop winnat\n      netsh int ipv4 add excludedportrange protocol=tcp startport=1650 numberofports=1 store=persistent\n      net start winnat", exitFailure},
				{"2222", "✓ 2222/tcp is free", exitOK},
				{"60800", "in the block 60700-60999", exitOK},
				{"9001", `tasklist /fi "PID eq 20480"`, exitFailure},
				{"9000", "The next free port is", exitFailure},
			} {
				code, text := on(t, b.WSL, "ports", "explain", test.port, "--runtime-dir", d.dir)
				if code != test.code {
					t.Errorf("explain %s: exit %d", test.port, code)
				}
				wantAll(t, text, test.says)
			}
			d.stop(os.Interrupt)
		})
	}
	spy, err := b.WSL.Run("nft", "list", "table", "inet", "spy")
	if err != nil {
		t.Fatal(err)
	}
	wantAll(t, spy, "counter packets 0 bytes 0")
}

// What an ordinary user cannot see is said.
func TestPortsOfAnOrdinaryUser(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	if _, err := b.WSL.ServeEcho("tcp", "0.0.0.0:9000"); err != nil {
		t.Fatal(err)
	}
	code, text := ends(t, b.WSL, asNobody(t)("ports", "--runtime-dir", t.TempDir()))
	if code != exitOK {
		t.Errorf("exit %d", code)
	}
	wantAll(t, text, "9000/tcp   0.0.0.0   ?", "of another user (try sudo)", "without those of containers: only root may see them",
		"not known: wslmirror is not running, and only root may look", "no netsh.exe and netstat.exe")
	code, text = ends(t, b.WSL, asNobody(t)("ports", "explain", "9000", "--runtime-dir", t.TempDir()))
	if code != exitFailure {
		t.Errorf("explain: exit %d", code)
	}
	wantAll(t, text, "a program listens on 0.0.0.0:9000", "sudo ss -tnap 'sport = :9000'", "another distribution")
}

// The traps of the block of source ports.
func TestPortsWarnsOfTheBlock(t *testing.T) {
	b := labtest.New(t, lab.Options{Ports: 10})
	if _, err := b.LAN.ServeEcho("tcp", "192.0.2.1:7000"); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		err := b.WSL.Do(func() error {
			c, err := net.Dial("tcp4", "192.0.2.1:7000")
			if err == nil {
				t.Cleanup(func() { c.Close() })
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, text := on(t, b.WSL, "ports", "--runtime-dir", t.TempDir())
	wantAll(t, text, "✗ 8 of 10 source ports are taken towards 192.0.2.1:7000/tcp", "8 of 10 towards 192.0.2.1:7000/tcp (80 %)",
		"2 more to the fullest destination, 0 of them found quickly; 10 to a new one")

	if err := b.WSL.Sysctl("ipv4/ip_local_port_range", "32768 60999"); err != nil {
		t.Fatal(err)
	}
	_, text = on(t, b.WSL, "ports", "--runtime-dir", t.TempDir())
	wantAll(t, text, "✗ net.ipv4.ip_local_port_range, 32768-60999, reaches beyond 60700-60709", "sudo sysctl -w net.ipv4.ip_local_port_range='60700 60709'",
		"60700-60709 is reserved: the block was widened")
	// The safe way to the same: the rest is never chosen.
	if err := b.WSL.Sysctl("ipv4/ip_local_reserved_ports", "32768-60699,60710-60999"); err != nil {
		t.Fatal(err)
	}
	if _, text = on(t, b.WSL, "ports", "--runtime-dir", t.TempDir()); strings.Contains(text, "reaches beyond") {
		t.Errorf("warns of a range whose rest is reserved:\n%s", text)
	}
	if err := b.FlushRuleset(); err != nil {
		t.Fatal(err)
	}
	_, text = on(t, b.WSL, "ports", "--runtime-dir", t.TempDir())
	wantAll(t, text, "not known: WSL's own nftables rule is gone")
}

// A WSL that keeps Windows' dynamic range from Linux, and a large such range.
func TestPortsRefusedByWSL(t *testing.T) {
	playWindows(t, "ja")
	t.Setenv("WSL_VERSION", "2.9.4.0")
	_, stdout, _ := call("ports", "--runtime-dir", t.TempDir())
	wantAll(t, stdout, "✗ WSL 2.9.4.0 refuses to Linux every tcp port of Windows' dynamic range, 1024-15000")
	code, stdout, _ := call("ports", "explain", "--json", "8011", "--runtime-dir", t.TempDir())
	var v ports.Verdict
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != exitFailure || v.State != ports.Blocked || v.Next != 15001 {
		t.Errorf("exit %d, %v, %+v", code, err, v)
	}
}

// Windows is not there, or not willing: one line says so and the rest goes on.
func TestPortsWithoutWindows(t *testing.T) {
	for name, test := range map[string]struct{ netsh, says string }{
		"absent":   {"", "no netsh.exe and netstat.exe, neither in PATH nor in /mnt/c/Windows/System32"},
		"disabled": {"MZ\x90\x00", "Windows' programs cannot be run: WSL's interop is off"},
		"slow":     {"#!/bin/sh\nexec sleep 60\n", "no answer in time from netsh.exe and netstat.exe"},
		"failing":  {"#!/bin/sh\necho 'UtilConnectUnix: \033[31mconnect failed'; exit 1\n", "cannot ask netsh.exe and netstat.exe: exit status 1: UtilConnectUnix: ?[31mconnect failed"},
		"babbling": {"#!/bin/sh\necho hello\n", "cannot understand netsh.exe and netstat.exe"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.netsh != "" {
				playProgram(t, "netsh.exe", test.netsh)
				playProgram(t, "netstat.exe", test.netsh)
			}
			began := time.Now()
			code, stdout, stderr := call("ports", "--runtime-dir", t.TempDir())
			if code != exitOK || stderr != "" {
				t.Errorf("exit %d, stderr %q", code, stderr)
			}
			wantAll(t, stdout, "Ports in Linux", "Source ports of Linux", "Ports in Windows\n  "+test.says)
			if n := strings.Count(stdout, "netsh.exe") + strings.Count(stdout, "interop is off"); n != 1 || strings.Contains(stdout, "\x1b") {
				t.Errorf("said %d times:\n%q", n, stdout)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			if name == "slow" {
				return // and would be so again
			}
			code, stdout, stderr = call("ports", "--json", "--runtime-dir", t.TempDir())
			var got portsJSON
			if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitOK || stderr != "" {
				t.Fatalf("--json: exit %d, %v, stderr %q", code, err, stderr)
			}
			if len(got.Windows.Problems) != 1 || got.Windows.TCP.Excluded != nil || got.Windows.UDP.Dynamic != nil {
				t.Errorf("--json: %+v", got.Windows)
			}
			code, stdout, _ = call("ports", "explain", "1", "--runtime-dir", t.TempDir())
			if code != exitOK {
				t.Errorf("explain: exit %d", code)
			}
			wantAll(t, stdout, "note: Windows has not told all: ")
		})
	}
}

func TestPortsUsage(t *testing.T) {
	for args, want := range map[string]string{
		"ports all":                    `ports takes no argument "all"`,
		"ports explain":                "needs a port",
		"ports explain 8080 8081":      `takes one port, and no argument "8081"`,
		"ports explain 0":              `"0" is not a port`,
		"ports explain 65536":          `"65536" is not a port`,
		"ports explain +80":            `"+80" is not a port`,
		"ports explain http":           `"http" is not a port`,
		"ports explain 80/":            `"" is not a protocol`,
		"ports explain 80/sctp":        `"sctp" is not a protocol`,
		"ports explain 80 --colour":    "not defined: -colour",
		"ports --interface loopback0":  "not defined: -interface",
		"ports explain -1":             "not defined: -1",
		"ports explain 80/tcp/udp":     `"tcp/udp" is not a protocol`,
		"ports explain \x1b[31m":       `"\x1b[31m" is not a port`,
		"ports explain 99999999999999": "is not a port",
	} {
		code, stdout, stderr := call(strings.Fields(args)...)
		lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
		if code != exitUsage || stdout != "" || len(lines) != 2 || !strings.Contains(lines[0], want) || !strings.HasPrefix(lines[1], "hint: ") {
			t.Errorf("wslmirror %s: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}
