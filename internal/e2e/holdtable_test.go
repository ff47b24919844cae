package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/tracker"
	"github.com/wslmirror/wslmirror/internal/status"
)

var update = flag.Bool("update", false, "write the tables of the documents")

// How programs fare that need a port that a holder has. Each line of output names what the
// program does, and ok or an error.
const (
	withPython = `
import errno, socket
for name, family, addr in [("0.0.0.0", socket.AF_INET, "0.0.0.0"), ("127.0.0.1", socket.AF_INET, "127.0.0.1"), ("[::]", socket.AF_INET6, "::")]:
    for reuse in (False, True):
        for proto, kind in [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)]:
            s = socket.socket(family, kind)
            if family == socket.AF_INET6:
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if reuse:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((addr, 8080))
                if proto == "tcp":
                    s.listen()
                result = "ok"
            except OSError as e:
                result = errno.errorcode[e.errno]
            s.close()
            print("Python, %s%s|%s|%s" % (name, ", SO_REUSEADDR" if reuse else "", proto, result), flush=True)
`
	withNode = `
const net = require("net"), dgram = require("dgram");
const attempt = (name, proto, open) => new Promise(done => {
	const s = open();
	const end = result => { console.log("Node, " + name + "|" + proto + "|" + result); s.close(() => done()); };
	s.on("listening", () => end("ok"));
	s.on("error", e => { console.log("Node, " + name + "|" + proto + "|" + e.code); done(); });
});
(async () => {
	await attempt("[::], its default", "tcp", () => net.createServer().listen(8080));
	await attempt("[::], its default", "udp", () => dgram.createSocket("udp6").bind(8080));
	await attempt("0.0.0.0", "tcp", () => net.createServer().listen(8080, "0.0.0.0"));
	await attempt("0.0.0.0", "udp", () => dgram.createSocket("udp4").bind(8080));
})();
`
)

// withGo does what programs in Go do.
func withGo() (lines string) {
	for _, p := range []struct{ name, network, addr string }{
		{"[::], its default", "", ":8080"}, {"0.0.0.0", "4", "0.0.0.0:8080"}, {"127.0.0.1", "4", "127.0.0.1:8080"},
	} {
		result := func(c interface{ Close() error }, err error) string {
			var errno unix.Errno
			if errors.As(err, &errno) {
				return unix.ErrnoName(errno)
			}
			c.Close()
			return "ok"
		}
		var tcp net.ListenConfig // like net.Listen
		l, err := tcp.Listen(context.Background(), "tcp"+p.network, p.addr)
		lines += fmt.Sprintf("Go, %s|tcp|%s\n", p.name, result(l, err))
		c, err := net.ListenPacket("udp"+p.network, p.addr)
		lines += fmt.Sprintf("Go, %s|udp|%s\n", p.name, result(c, err))
	}
	return lines
}

// The table in docs/hold.md is correct.
func TestHeldPortsAndPrograms(t *testing.T) {
	labtest.NeedRoot(t)
	for _, program := range []string{"python3", "node"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	results := map[string]map[string]string{} // by program, then by protocol and mode
	var order []string
	for _, mode := range []lab.Mode{lab.Mirrored, lab.Consomme} {
		b := labtest.New(t, lab.Options{Mode: mode, Tracker: &tracker.Options{}})
		publishByRules(t, b, "8080")
		d := start(t, b.WSL)
		d.await("the ports", func(s status.Snapshot) bool { return s.State == status.Active && len(s.Ports) == 2 })
		h := startHolder(t, d)
		h.await("8080/tcp", "8080/udp")
		var lines string
		if err := b.WSL.Do(func() error { lines = withGo(); return nil }); err != nil {
			t.Fatal(err)
		}
		for _, cmd := range []*exec.Cmd{exec.Command("python3", "-c", withPython), exec.Command("node", "-e", withNode)} {
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			p, err := b.WSL.Start(cmd)
			if err == nil {
				err = p.Wait()
			}
			if err != nil {
				t.Fatalf("%v: %s", err, out.String())
			}
			lines += out.String()
		}
		for line := range strings.Lines(lines) {
			f := strings.Split(strings.TrimSpace(line), "|")
			if len(f) != 3 {
				t.Fatalf("a program prints %q", line)
			}
			if results[f[0]] == nil {
				results[f[0]] = map[string]string{}
				order = append(order, f[0])
			}
			results[f[0]][f[1]+mode.String()] = f[2]
		}
		h.await("8080/tcp", "8080/udp")
	}
	table := "| program, and where it binds | mirrored: TCP | UDP | consomme: TCP | UDP |\n|---|---|---|---|---|\n"
	for _, name := range order {
		r := results[name]
		table += fmt.Sprintf("| %s | %s | %s | %s | %s |\n", name, r["tcpmirrored"], r["udpmirrored"], r["tcpconsomme"], r["udpconsomme"])
	}
	table = strings.ReplaceAll(table, "| ok ", "| ✓ ")

	const file, begin, end = "../../docs/hold.md", "<!-- programs -->\n", "<!-- end -->"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	shown, after, ok2 := strings.Cut(rest, end)
	switch {
	case !ok || !ok2:
		t.Fatalf("%s has no place for the table", file)
	case *update:
		if err := os.WriteFile(file, []byte(before+begin+table+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	case shown != table:
		t.Errorf("%s shows\n%s\nand it is\n%s\nupdate it: go test ./internal/e2e -run HeldPortsAndPrograms -update", file, shown, table)
	}
}
