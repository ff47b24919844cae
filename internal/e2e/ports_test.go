package e2e

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// on runs the program in a host to its end.
func on(t *testing.T, h *lab.Host, args ...string) (code int, stdout string) {
	t.Helper()
	return ends(t, h, program(t, args...))
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

// unfolded returns a text as it was printed, followed by the same text on one line.
func unfolded(text string) string { return text + strings.Join(strings.Fields(text), " ") }

// A portsReport contains the part of "ports --json" that these tests check.
type portsReport struct {
	Mode     string
	Mirrored bool
	Ports    []struct{ Listened bool }
	Block    struct {
		Size       int
		FirstPass  int  `json:"first_pass"`
		Containers bool `json:"containers_counted"`
		Widened    *bool
	}
	Windows struct {
		TCP, UDP struct {
			Excluded  []struct{ Administered bool }
			Listeners []any
		}
		Problems []string
	}
}

// A network with everything: an engine with a proxy, a port that no socket is bound to, a
// server, and Windows.
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
	// As CNI publishes: only by rules.
	if _, err := b.WSL.Run("nft", "add table ip cni; add chain ip cni CNI-DNAT { type nat hook prerouting priority dstnat; }; "+
		"add rule ip cni CNI-DNAT tcp dport 8090 dnat to 172.17.0.2:80"); err != nil {
		t.Fatal(err)
	}
	// No command of wslmirror sends a packet.
	if _, err := b.WSL.Run("nft", "add table inet spy; add chain inet spy out { type filter hook output priority -300; }; "+
		"add rule inet spy out meta l4proto { tcp, udp } counter"); err != nil {
		t.Fatal(err)
	}
	for _, language := range []string{"en", "ja", "ko"} {
		t.Run(language, func(t *testing.T) {
			labtest.PlayWindows(t, language)
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
			labtest.WantAll(t, text,
				"! warning: 8090/tcp is published by cni, but no program in Linux listens on it",
				"docker: 172.17.0.2:80\n", "localhost, to the engine's proxy\n",
				"none", "no: Windows does not know of it", "no: only 127.0.0.1 is mirrored", "through that address",
				"60700-60999, 300 ports", "60700-60999 is reserved, and contains the block", "including containers",
				"80, 1628-1727, 2222*, 2223-2322, 5357, 50000-50059*", "udp   none", dynamic, "135, 139, 445, 9001", "1900, 5353",
			)
			if !strings.HasPrefix(text, "! warning: 8090") {
				t.Errorf("the fault does not come first:\n%s", text)
			}

			var got portsReport
			_, text = on(t, b.WSL, "ports", "--json", "--runtime-dir", d.dir)
			labtest.WantValid(t, "ports", []byte(text))
			if err := json.Unmarshal([]byte(text), &got); err != nil {
				t.Fatal(err)
			}
			if w := got.Windows; len(w.TCP.Excluded) != 6 || !w.TCP.Excluded[2].Administered || w.UDP.Excluded == nil || len(w.TCP.Listeners) != 5 || len(w.Problems) != 0 {
				t.Errorf("Windows: %+v", w)
			}
			if p := got.Ports; len(p) != 2 || !p[0].Listened || p[1].Listened || !got.Mirrored || !strings.HasPrefix(got.Mode, "mirrored") {
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
				labtest.WantAll(t, unfolded(text), test.says)
			}
			d.stop(os.Interrupt)
		})
	}
	spy, err := b.WSL.Run("nft", "list", "table", "inet", "spy")
	if err != nil {
		t.Fatal(err)
	}
	labtest.WantAll(t, spy, "counter packets 0 bytes 0")
}

// Ports that an ordinary user cannot see are reported as such.
func TestPortsOfAnOrdinaryUser(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	if _, err := b.WSL.ServeEcho("tcp", "0.0.0.0:9000"); err != nil {
		t.Fatal(err)
	}
	code, text := ends(t, b.WSL, asNobody(t)("ports", "--runtime-dir", t.TempDir()))
	if code != exitOK {
		t.Errorf("exit %d", code)
	}
	labtest.WantAll(t, unfolded(text), "9000/tcp   0.0.0.0   ?", "owned by another user (try sudo)", "not counting containers: only root can see them",
		"unknown: wslmirror is not running, and only root can read the rules", "no netsh.exe and netstat.exe")
	code, text = ends(t, b.WSL, asNobody(t)("ports", "explain", "9000", "--runtime-dir", t.TempDir()))
	if code != exitFailure {
		t.Errorf("explain: exit %d", code)
	}
	labtest.WantAll(t, unfolded(text), "a program listens on 0.0.0.0:9000", "sudo ss -tnap 'sport = :9000'", "another distribution")
}

// Traps with the block of source ports.
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
	labtest.WantAll(t, unfolded(text), "! warning: 8 of 10 source ports are in use to 192.0.2.1:7000/tcp", "8 of 10 to 192.0.2.1:7000/tcp (80 %)",
		"2 left for the fullest destination, 0 of them found quickly; 10 for a new one")

	if err := b.WSL.Sysctl("ipv4/ip_local_port_range", "32768 60999"); err != nil {
		t.Fatal(err)
	}
	_, text = on(t, b.WSL, "ports", "--runtime-dir", t.TempDir())
	labtest.WantAll(t, unfolded(text), "! warning: net.ipv4.ip_local_port_range is 32768-60999, but WSL has reserved only", "sudo sysctl -w net.ipv4.ip_local_port_range='60700 60709'",
		"60700-60709 is reserved; the block is larger than that")
	// The safe way to get the same: the kernel never chooses the other ports.
	if err := b.WSL.Sysctl("ipv4/ip_local_reserved_ports", "32768-60699,60710-60999"); err != nil {
		t.Fatal(err)
	}
	if _, text = on(t, b.WSL, "ports", "--runtime-dir", t.TempDir()); strings.Contains(unfolded(text), "has reserved only") {
		t.Errorf("warns of a range whose rest is reserved:\n%s", text)
	}
	if err := b.FlushRuleset(); err != nil {
		t.Fatal(err)
	}
	_, text = on(t, b.WSL, "ports", "--runtime-dir", t.TempDir())
	labtest.WantAll(t, unfolded(text), "unknown: WSL's nftables rule that keeps containers in the block is gone")
}
