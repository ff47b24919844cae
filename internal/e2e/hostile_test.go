package e2e

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// Names in the kernel may contain any bytes. Names of chains, sets, comments and links must
// not reach a terminal, the log, or the file that every user may read.
func TestHostileNames(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br\x1b[2J\u202e"}}
	if err := b.WSL.Net.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	if err := b.WSL.Sysctl("ipv4/conf/"+link.Name+"/route_localnet", "1"); err != nil {
		t.Fatal(err)
	}
	c, err := b.WSL.NFT()
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nat"})
	set := &nftables.Set{Table: table, Name: labtest.Hostile, KeyType: nftables.TypeInetService}
	if err := c.AddSet(set, []nftables.SetElement{{Key: []byte{0x1f, 0x90}}}); err != nil { // 8080
		t.Fatal(err)
	}
	chain := c.AddChain(&nftables.Chain{
		Table: table, Name: labtest.Hostile, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, UserData: []byte("\x00" + string(rune(len(labtest.Hostile)+1)) + labtest.Hostile + "\x00"), Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: labtest.Hostile},
		&expr.Immediate{Register: 1, Data: []byte{172, 17, 0, 2}},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	var p *tap
	d := launch(t, b.WSL, func(args ...string) *exec.Cmd {
		var cmd *exec.Cmd
		cmd, p = onTap(t, args...)
		return cmd
	}, "--log-level", "debug")
	served := make(chan error, 1)
	go func() { served <- p.serve(d.proc) }()

	look := func(state status.State, says string) {
		t.Helper()
		d.awaitState(state)
		file, err := os.ReadFile(filepath.Join(d.dir, "status.json"))
		if err != nil {
			t.Fatal(err)
		}
		texts := map[string]string{"status.json": string(file)}
		for _, args := range []string{"status", "status --json", "ports", "ports --json", "ports explain 8080"} {
			out, _ := program(t, append(strings.Fields(args), "--runtime-dir", d.dir)...).CombinedOutput()
			texts[args] = string(out)
		}
		maps.Copy(texts, diagnoses(t, b.WSL, d.dir))
		mustBeSeen(t, texts)
		for what, text := range texts {
			if strings.HasPrefix(what, "status") && !strings.Contains(text, says) {
				t.Errorf("%s does not say %q:\n%s", what, says, text)
			}
		}
		// Programs get the name itself.
		var s status.Snapshot
		if err := json.Unmarshal(file, &s); err != nil || state == status.Active && s.Ports[0].Engine != "nat "+strings.ToValidUTF8(labtest.Hostile, "\ufffd") {
			t.Errorf("%v: %+v", err, s.Ports)
		}
	}
	look(status.Active, "level=info")
	p.setFault(func(_ int, call string) unix.Errno {
		if call == "sendto 0xa0d" { // NFT_MSG_GETSETELEM
			return unix.EIO
		}
		return 0
	})
	b.WSL.Run("nft", "add table ip another") // a new generation
	look(status.Error, "elements of set")
	p.setFault(nil)
	look(status.Active, "level=info")
	d.stop(unix.SIGTERM)
	if err := <-served; err != nil {
		t.Error(err)
	}
	log := d.log.String()
	if r, found := labtest.Unprintable(log); found || strings.Contains(log, hostileLine) || !strings.Contains(log, `\x1b]0;x`) || !strings.Contains(log, "br") {
		t.Errorf("the log has %q:\n%s", r, log)
	}
}

// mustBeSeen fails the test if a text contains something that must not reach a terminal, or
// if a part of labtest.Hostile begins a line.
func mustBeSeen(t *testing.T, texts map[string]string) {
	t.Helper()
	for what, text := range texts {
		if r, found := labtest.Unprintable(text); found {
			t.Errorf("%s has %q:\n%q", what, r, text)
		}
		// The bundle contains the output of nft, in which a newline in a name is a newline.
		if what != theBundle && strings.Contains(text, hostileLine) {
			t.Errorf("%s begins a line with a part of a name:\n%s", what, text)
		}
	}
}

// Any user may start a program with the name of wslmirror and any arguments. Doctor shows
// none of them, neither in its findings nor in its commands.
func TestHostileArguments(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	for range 2 {
		p, err := b.WSL.Start(asService(t, "run", "--runtime-dir", filepath.Join(t.TempDir(), labtest.Hostile)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
	}
	labtest.Eventually(t, "both are seen", func() bool {
		return strings.Contains(diagnoses(t, b.WSL, t.TempDir())["doctor"], "2 wslmirrors run")
	})
	mustBeSeen(t, diagnoses(t, b.WSL, t.TempDir()))
}

// diagnoses returns the output of doctor in h, in each of its forms.
func diagnoses(t *testing.T, h *lab.Host, dir string) map[string]string {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "bundle")
	texts := map[string]string{}
	for _, args := range []string{"doctor", "doctor --json", "doctor --bundle " + bundle} {
		cmd := program(t, append(strings.Fields(args), "--runtime-dir", dir)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		p, err := h.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		p.Wait() // exits with 1 if it finds a fault
		if texts[args] = out.String(); out.Len() == 0 {
			t.Errorf("%s says nothing", args)
		}
	}
	file, err := os.ReadFile(bundle)
	if err != nil {
		t.Error(err)
	}
	texts[theBundle] = string(file)
	return texts
}

const theBundle = "the bundle"

// hostileLine would begin a line if the newline in labtest.Hostile were printed as one.
const hostileLine = "\nlevel=info"
