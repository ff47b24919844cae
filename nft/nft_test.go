package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/google/nftables"
	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

var update = flag.Bool("update", false, "write the golden files")

// host returns a machine of the bench with a link loopback0, and the link's index.
func host(t *testing.T) (*lab.Host, int) {
	b := labtest.New(t, lab.Options{})
	link, err := b.WSL.Net.LinkByName("loopback0")
	if err != nil {
		t.Fatal(err)
	}
	return b.WSL, link.Attrs().Index
}

// in runs fn inside h. fn must not call t.Fatal.
func in(t testing.TB, h *lab.Host, fn func() error) {
	t.Helper()
	if err := h.Do(fn); err != nil {
		t.Fatal(err)
	}
}

// install opens a TableOwner in h and installs table with it.
func install(t testing.TB, h *lab.Host, table Table) *TableOwner {
	t.Helper()
	var owner *TableOwner
	old := read(t, h)
	in(t, h, func() (err error) {
		if owner, err = Open(); err != nil {
			return err
		}
		return owner.Install(table, old)
	})
	t.Cleanup(func() { owner.Close() })
	return owner
}

// look calls analyse with the ruleset of h.
func look(t testing.TB, h *lab.Host, analyse func(*ruleset.Reader, *ruleset.Ruleset) error) (generation uint32) {
	t.Helper()
	in(t, h, func() error {
		r, err := ruleset.OpenReader(TableName)
		if err != nil {
			return err
		}
		defer r.Close()
		generation, err = r.Read(func(rs *ruleset.Ruleset) error { return analyse(r, rs) })
		return err
	})
	return generation
}

func read(t testing.TB, h *lab.Host) (ours OurTable) {
	t.Helper()
	look(t, h, func(r *ruleset.Reader, rs *ruleset.Ruleset) (err error) {
		ours.Table = TableOf(rs)
		ours.Owner, ours.Present, err = r.Owner(TableName)
		return err
	})
	return ours
}

// mirror is the table for the path proxy and the link with that index.
func mirror(index int) Table { return Spec{Index: index, Repair: true, Refuse: true}.Table() }

// direct is the table for the path direct.
func direct(index int, targets Targets) Table {
	return Spec{Index: index, Repair: true, Replies: true, Direct: targets, Guarded: []string{"docker0"}}.Table()
}

// everything is a table with all features.
func everything(index int) Table {
	return Spec{
		Index: index, Repair: true, Replies: true, Refuse: true, Direct: twoTargets,
		EngineServed: ports(3000, 3009), Except: ports(22, 22), Own: addrs("192.0.2.2"),
		Guarded: []string{"docker0", "br-1"},
		ToWindows: &ToWindows{
			Ports: ports(11434, 11434), Links: []string{"docker0"}, Addrs: addrs("172.17.0.1", "192.0.2.2"),
			First: 60700, Last: 60999,
		},
	}.Table()
}

func addrs(list ...string) (addrs []netip.Addr) {
	for _, a := range list {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs
}

var twoTargets = Targets{
	{Proto: unix.IPPROTO_TCP, Number: 8080}: netip.MustParseAddrPort("172.17.0.2:80"),
	{Proto: unix.IPPROTO_UDP, Number: 5353}: netip.MustParseAddrPort("172.17.0.3:53"),
}

// nft also prints the name of the program that owns a table.
var progname = regexp.MustCompile(` # progname .*`)

// The table as nft prints it.
func TestMirrorGolden(t *testing.T) { testGolden(t, "mirror.nft", mirror) }

func TestDirectGolden(t *testing.T) {
	testGolden(t, "direct.nft", func(index int) Table { return direct(index, twoTargets) })
}

func TestEverythingGolden(t *testing.T) { testGolden(t, "everything.nft", everything) }

func testGolden(t *testing.T, name string, table func(index int) Table) {
	h, index := host(t)
	install(t, h, table(index))
	out, err := h.Run("nft", "--stateless", "list", "table", TableFamily, TableName)
	if err != nil {
		t.Fatal(err)
	}
	got := progname.ReplaceAll([]byte(out), nil)
	golden := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("nft lists\n%swant\n%s", got, want)
	}
}

// The table that is read equals the one that was installed, in every detail. Otherwise
// the daemon would replace its table again and again.
func TestReadGivesBackWhatWasInstalled(t *testing.T) {
	h, index := host(t)
	if s := read(t, h); s.Present || s.Owner != 0 || len(s.Table.Chains) != 0 {
		t.Fatalf("before: %+v", s)
	}
	owner := install(t, h, mirror(index))
	s := read(t, h)
	if !s.Present || s.Owner != owner.PortID() || !s.Table.Equal(mirror(index)) {
		t.Errorf("read %+v, want owner %d and %+v", s, owner.PortID(), mirror(index))
	}
	if s.Table.Equal(mirror(index + 1)) {
		t.Error("the table for another link counts as equal")
	}

	// Ranges of ports, some of which change.
	for _, served := range []ruleset.Ports{ports(1, 65535), ports(80, 90), ports(80, 95), nil} {
		spec := Spec{Index: index, Repair: true, EngineServed: served}
		in(t, h, func() error { return owner.Install(spec.Table(), s) })
		if s = read(t, h); !s.Table.Equal(spec.Table()) {
			t.Errorf("with %s: %+v", served, s)
		}
	}

	in(t, h, func() error { return owner.Install(everything(index), s) })
	if s = read(t, h); !s.Table.Equal(everything(index)) {
		t.Errorf("with everything: read %+v, want %+v", s.Table, everything(index))
	}

	// Replace the table, then remove it.
	in(t, h, func() error { return owner.Install(mirror(index+1), s) })
	if s = read(t, h); !s.Table.Equal(mirror(index + 1)) {
		t.Errorf("after replacing: %+v", s)
	}
	in(t, h, owner.Remove)
	in(t, h, owner.Remove) // a missing table is not an error
	if s = read(t, h); s.Present {
		t.Errorf("after removing: %+v", s)
	}
	in(t, h, func() error { return owner.Install(mirror(index), s) })
	if s = read(t, h); !s.Table.Equal(mirror(index)) || s.Owner != owner.PortID() {
		t.Errorf("installed again: %+v", s)
	}
}

// ports are the TCP ports from first to last.
func ports(first, last uint16) ruleset.Ports {
	var list []ruleset.Port
	for p := int(first); p <= int(last); p++ {
		list = append(list, ruleset.Port{Proto: unix.IPPROTO_TCP, Number: uint16(p)})
	}
	return ruleset.PortSet(list...)
}

func TestOwnership(t *testing.T) {
	h, index := host(t)
	owner := install(t, h, mirror(index))

	if out, err := h.Run("nft", "delete", "table", TableFamily, TableName); err == nil {
		t.Errorf("somebody else could delete the table: %s", out)
	}
	if out, err := h.Run("nft", "flush", "chain", TableFamily, TableName, PreroutingChain); err == nil {
		t.Errorf("somebody else could flush the chain: %s", out)
	}
	if _, err := h.Run("nft", "flush", "ruleset"); err != nil {
		t.Error(err)
	}
	if s := read(t, h); !s.Table.Equal(mirror(index)) {
		t.Errorf("after 'nft flush ruleset': %+v", s)
	}

	var second *TableOwner
	in(t, h, func() (err error) {
		second, err = Open()
		return err
	})
	defer second.Close()
	for _, old := range []OurTable{{}, read(t, h)} {
		err := h.Do(func() error { return second.Install(mirror(index), old) })
		if !errors.Is(err, ErrOwned) {
			t.Errorf("a second owner: %v, want ErrOwned", err)
		}
	}

	owner.Close()
	if s := read(t, h); s.Present {
		t.Errorf("outlives its owner: %+v", s)
	}
	in(t, h, func() error { return second.Install(mirror(index), OurTable{}) })
	if s := read(t, h); s.Owner != second.PortID() {
		t.Errorf("owner is %d, want the second, %d", s.Owner, second.PortID())
	}
}

// loadable is a sed script for what nft has printed about our table: it leaves out what
// nft and this kernel together cannot load, whoever wrote it. nft 1.0.6 has the kernel
// swap two bytes of a protocol, which has one, before it looks for protocol and port in a
// set with intervals. Kernels that no longer swap several numbers at once refuse that
// (nft_byteorder_init), 6.12.117 among them.
func loadable(t *testing.T, h *lab.Host) string {
	t.Helper()
	const try = `table ip try { set s { type inet_proto . inet_service; flags interval; }; chain c { meta l4proto . th dport @s; }; }`
	if out, err := h.Run("nft", "--check", try); err != nil {
		t.Logf("nft cannot load a rule with protocol and port in a set with intervals: %s", out)
		return "/th dport @/d"
	}
	return ""
}

// A ruleset that was saved and loaded again contains our table without an owner.
func TestReplaceTakesATableThatNobodyOwns(t *testing.T) {
	h, index := host(t)
	saved, err := filepath.Abs("testdata/mirror.nft")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Run("sh", "-c", "sed '/flags owner/d;"+loadable(t, h)+"' "+saved+" | nft -f -"); err != nil {
		t.Fatal(err)
	}
	if s := read(t, h); !s.Present || s.Owner != 0 {
		t.Fatalf("before: %+v", s)
	}
	owner := install(t, h, mirror(index))
	if s := read(t, h); s.Owner != owner.PortID() || !s.Table.Equal(mirror(index)) {
		t.Errorf("after: %+v", s)
	}
}

// nft can load what it prints about our table, except for the owner. So a saved ruleset
// that contains our table can be loaded.
func TestGoldenFilesCanBeLoaded(t *testing.T) {
	h, _ := host(t)
	files, err := filepath.Glob("testdata/*.nft")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		saved, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		sed := "sed '/flags owner/,+1d;" + loadable(t, h) + "' " + saved
		if out, err := h.Run("sh", "-c", sed+" | nft --check --file -"); err != nil {
			t.Errorf("%s: %s", file, out)
			continue
		}
		want, err := h.Run("sh", "-c", sed)
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.Run("sh", "-c", sed+" | nft --file - && nft --stateless list table ip wslmirror && nft delete table ip wslmirror")
		if err != nil || got != want {
			t.Errorf("%s: %v; loaded and listed:\n%s", file, err, got)
		}
	}
}

func TestCheckLeavesNothing(t *testing.T) {
	h, _ := host(t)
	before, err := h.Run("nft", "--stateless", "list", "ruleset")
	if err != nil {
		t.Fatal(err)
	}
	in(t, h, Check)
	after, err := h.Run("nft", "--stateless", "list", "ruleset")
	if err != nil || before != after {
		t.Errorf("%v; before\n%s\nafter\n%s", err, before, after)
	}
}

// Kernels that this machine does not have, simulated by their answers.
func TestCheckNamesWhatIsMissing(t *testing.T) {
	tests := map[string]struct {
		list, add unix.Errno // the answers to the two requests of Check
		want      error
	}{
		"all is there":              {0, 0, nil},
		"no CAP_NET_ADMIN":          {unix.EPERM, 0, ErrPermission},
		"no nf_tables":              {unix.EINVAL, 0, ErrNoNFTables},
		"no table ownership":        {0, unix.EOPNOTSUPP, ErrNoOwner},
		"no table ownership, older": {0, unix.EINVAL, ErrNoOwner},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			answer := unix.Errno(0)
			kernel := func(req []mdl.Message) ([]mdl.Message, error) {
				switch len(req) {
				case 0: // receive: each answer is given once
					errno := answer
					answer = 0
					if errno != 0 {
						return nil, &mdl.OpError{Op: "receive", Err: errno}
					}
				case 1:
					answer = test.list
				default: // a batch
					answer = test.add
				}
				return nil, nil
			}
			err := check(nftables.WithTestDial(kernel))
			if !errors.Is(err, test.want) {
				t.Errorf("check: %v, want %v", err, test.want)
			}
		})
	}
}

func TestTooOld(t *testing.T) {
	for release, old := range map[string]bool{
		"4.19.128-microsoft-standard": true, "5.10.102.1-microsoft-standard-WSL2": true, "5.11.0": true,
		"5.12.0": false, "5.15.167.4-microsoft-standard-WSL2": false, "6.6.87.2-microsoft-standard-WSL2": false,
		"10.0": false, "?": false, "": false,
	} {
		if got := TooOld(release) != nil; got != old {
			t.Errorf("%q: too old %v", release, got)
		}
	}
}

// This kernel lacks nothing, and the check leaves nothing behind.
func TestLacksNothing(t *testing.T) {
	h, index := host(t)
	owner := install(t, h, mirror(index))
	before := read(t, h)
	in(t, h, func() error {
		if lacking, err := owner.Lacking(); err != nil || lacking != (Features{}) {
			return fmt.Errorf("lacks %+v, %w", lacking, err)
		}
		return nil
	})
	if after := read(t, h); !after.Table.Equal(before.Table) {
		t.Errorf("the table is %+v", after)
	}
	if out, err := h.Run("nft", "list", "table", TableFamily, TableName+"-check"); err == nil {
		t.Errorf("leaves %s", out)
	}
}

// Kernels that lack an expression, and kernels with other faults.
func TestLacking(t *testing.T) {
	all := Features{Repair: true, Direct: true, Refuse: true, ToWindows: true}
	tests := map[string]struct {
		expression string // the one that the kernel refuses
		errno      unix.Errno
		lacking    Features
		err        error
	}{
		"no nft_ct":            {"ct", unix.ENOENT, all, nil},
		"no nft_masq":          {"masq", unix.ENOENT, Features{Repair: true, Direct: true}, nil},
		"no nft_reject":        {"reject", unix.ENOENT, Features{Refuse: true}, nil},
		"no conntrack timeout": {"objref", unix.EOPNOTSUPP, Features{Refuse: true}, nil},
		"no nft_nat":           {"nat", unix.ENOENT, all, ErrNoNAT},
		"no memory":            {"masq", unix.ENOMEM, Features{}, unix.ENOMEM},
		"no right":             {"payload", unix.EPERM, Features{}, unix.EPERM},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			refused := false
			kernel := func(req []mdl.Message) ([]mdl.Message, error) {
				for _, m := range req {
					// NFTA_EXPR_NAME is attribute 1.
					named := binary.NativeEndian.AppendUint16(nil, uint16(4+len(test.expression)+1))
					named = append(binary.NativeEndian.AppendUint16(named, unix.NFTA_EXPR_NAME), test.expression+"\x00"...)
					refused = refused || bytes.Contains(m.Data, named)
				}
				if len(req) > 0 || !refused {
					return nil, nil
				}
				refused = false // each answer is given once
				return nil, &mdl.OpError{Op: "receive", Err: test.errno}
			}
			conn, sock, err := dial(nftables.WithTestDial(kernel))
			if err != nil {
				t.Fatal(err)
			}
			lacking, err := (&TableOwner{conn: conn, sock: sock}).Lacking()
			if lacking != test.lacking || !errors.Is(err, test.err) {
				t.Errorf("lacks %+v, %v", lacking, err)
			}
		})
	}
}

// A change that came too late has lost its socket, even if the kernel made the change.
func TestTooLate(t *testing.T) {
	h, _ := host(t)
	in(t, h, func() error {
		conn, sock, err := dial()
		if err != nil {
			return err
		}
		defer conn.CloseLasting()
		closed := make(chan struct{})
		err = within(sock, time.Millisecond, func() error {
			for sock.SetReadBuffer(1<<16) == nil { // until it is closed
				time.Sleep(time.Millisecond)
			}
			close(closed)
			return nil
		})
		<-closed
		if !errors.Is(err, ErrTimeout) {
			t.Errorf("%v", err)
		}
		return nil
	})
}
