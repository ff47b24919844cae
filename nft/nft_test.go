package nft

import (
	"bytes"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/nftables"
	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

var update = flag.Bool("update", false, "write the golden files")

// host is a machine of the bench with a link loopback0, and its index.
func host(t *testing.T) (*lab.Host, int) {
	b := labtest.New(t, lab.Options{})
	link, err := b.WSL.Net.LinkByName("loopback0")
	if err != nil {
		t.Fatal(err)
	}
	return b.WSL, link.Attrs().Index
}

// in runs fn inside h, where it may not call t.Fatal.
func in(t *testing.T, h *lab.Host, fn func() error) {
	t.Helper()
	if err := h.Do(fn); err != nil {
		t.Fatal(err)
	}
}

// install opens a Holder in h and installs table with it.
func install(t *testing.T, h *lab.Host, table Table) *Holder {
	t.Helper()
	var holder *Holder
	old := read(t, h)
	in(t, h, func() (err error) {
		if holder, err = Open(); err != nil {
			return err
		}
		return holder.Install(table, old)
	})
	t.Cleanup(func() { holder.Close() })
	return holder
}

func read(t *testing.T, h *lab.Host) State {
	t.Helper()
	var s State
	in(t, h, func() error {
		r, err := OpenReader()
		if err != nil {
			return err
		}
		defer r.Close()
		s, _, err = r.Read()
		return err
	})
	return s
}

// mirror is the table of the path proxy, for the link of that index.
func mirror(index int) Table { return Spec{Index: index, Repair: true}.Table() }

// direct is the table of the path direct.
func direct(index int, targets Targets) Table {
	return Spec{Index: index, Repair: true, Replies: true, Direct: targets, Guarded: []string{"docker0"}}.Table()
}

var twoTargets = Targets{
	{unix.IPPROTO_TCP, 8080}: netip.MustParseAddrPort("172.17.0.2:80"),
	{unix.IPPROTO_UDP, 5353}: netip.MustParseAddrPort("172.17.0.3:53"),
}

// nft also prints which program owns a table.
var progname = regexp.MustCompile(` # progname .*`)

// The table as the nft program sees it.
func TestMirrorGolden(t *testing.T) { testGolden(t, "mirror.nft", mirror) }

func TestDirectGolden(t *testing.T) {
	testGolden(t, "direct.nft", func(index int) Table { return direct(index, twoTargets) })
}

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

// What was installed is what is read, to the letter: if it were not, the daemon
// would replace its table for ever.
func TestReadGivesBackWhatWasInstalled(t *testing.T) {
	h, index := host(t)
	if s := read(t, h); s.Present || s.Owner != 0 || len(s.Table.Chains) != 0 {
		t.Fatalf("before: %+v", s)
	}
	holder := install(t, h, mirror(index))
	s := read(t, h)
	if !s.Present || s.Owner != holder.PortID() || !s.Table.Equal(mirror(index)) {
		t.Errorf("read %+v, want owner %d and %+v", s, holder.PortID(), mirror(index))
	}
	if s.Table.Equal(mirror(index + 1)) {
		t.Error("the table for another link counts as equal")
	}

	// Another table in its place, and none.
	in(t, h, func() error { return holder.Install(mirror(index+1), s) })
	if s = read(t, h); !s.Table.Equal(mirror(index + 1)) {
		t.Errorf("after replacing: %+v", s)
	}
	in(t, h, holder.Remove)
	in(t, h, holder.Remove) // there is nothing left to do
	if s = read(t, h); s.Present {
		t.Errorf("after removing: %+v", s)
	}
	in(t, h, func() error { return holder.Install(mirror(index), s) })
	if s = read(t, h); !s.Table.Equal(mirror(index)) || s.Owner != holder.PortID() {
		t.Errorf("installed again: %+v", s)
	}
}

func TestOwnership(t *testing.T) {
	h, index := host(t)
	holder := install(t, h, mirror(index))

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

	var second *Holder
	in(t, h, func() (err error) {
		second, err = Open()
		return err
	})
	defer second.Close()
	for _, old := range []State{{}, read(t, h)} {
		err := h.Do(func() error { return second.Install(mirror(index), old) })
		if !errors.Is(err, ErrOwned) {
			t.Errorf("a second owner: %v, want ErrOwned", err)
		}
	}

	holder.Close()
	if s := read(t, h); s.Present {
		t.Errorf("outlives its owner: %+v", s)
	}
	in(t, h, func() error { return second.Install(mirror(index), State{}) })
	if s := read(t, h); s.Owner != second.PortID() {
		t.Errorf("owner is %d, want the second, %d", s.Owner, second.PortID())
	}
}

// A ruleset that was saved and loaded again contains our table without owner.
func TestReplaceTakesATableThatNobodyOwns(t *testing.T) {
	h, index := host(t)
	saved, err := filepath.Abs("testdata/mirror.nft")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Run("sh", "-c", "sed '/flags owner/d' "+saved+" | nft -f -"); err != nil {
		t.Fatal(err)
	}
	if s := read(t, h); !s.Present || s.Owner != 0 {
		t.Fatalf("before: %+v", s)
	}
	holder := install(t, h, mirror(index))
	if s := read(t, h); s.Owner != holder.PortID() || !s.Table.Equal(mirror(index)) {
		t.Errorf("after: %+v", s)
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

// Kernels that this machine does not have, by what they answer.
func TestCheckNamesWhatIsMissing(t *testing.T) {
	tests := map[string]struct {
		list, add unix.Errno // the answers to the two things that Check tries
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
				case 0: // it is read: an answer is given once
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

func TestMisdirected(t *testing.T) {
	ip := func(s string) [4]byte { return netip.MustParseAddr(s).As4() }
	nine := PortSet(Port{unix.IPPROTO_TCP, 9000})
	m := misdirected{
		now:   Spec{Kernel: nine, Direct: Targets{{unix.IPPROTO_TCP, 7000}: netip.MustParseAddrPort("172.17.0.2:80")}},
		freed: nine,
	}
	tests := map[string]struct {
		src, dst, answers string
		masqueraded       bool
		proto             uint8
		port              uint16
		want              bool
	}{
		"to a container":              {"127.0.0.1", "127.0.0.1", "172.17.0.2", false, unix.IPPROTO_TCP, 8080, true},
		"to a container, masqueraded": {"127.0.0.1", "127.0.0.1", "172.17.0.2", true, unix.IPPROTO_TCP, 8080, true},

		"to another loopback":               {"127.0.0.1", "127.0.0.1", "127.0.0.2", false, unix.IPPROTO_UDP, 8080, true},
		"to where it was sent":              {"127.0.0.1", "127.0.0.1", "127.0.0.1", false, unix.IPPROTO_TCP, 8080, false},
		"to a container, by the kernel":     {"127.0.0.1", "127.0.0.1", "172.17.0.2", true, unix.IPPROTO_TCP, 9000, false},
		"by the kernel, and not answerable": {"127.0.0.1", "127.0.0.1", "172.17.0.2", false, unix.IPPROTO_TCP, 9000, true},
		"kept from the kernel":              {"127.0.0.1", "127.0.0.1", "127.0.0.1", false, unix.IPPROTO_TCP, 9000, true},
		"the same port of another protocol": {"127.0.0.1", "127.0.0.1", "127.0.0.1", false, unix.IPPROTO_UDP, 9000, false},
		"neither TCP nor UDP":               {"127.0.0.1", "127.0.0.1", "172.17.0.2", false, unix.IPPROTO_SCTP, 8080, false},
		"from the LAN":                      {"192.0.2.1", "192.0.2.2", "172.17.0.2", false, unix.IPPROTO_TCP, 8080, false},
		"from the LAN to us":                {"192.0.2.1", "127.0.0.1", "172.17.0.2", false, unix.IPPROTO_TCP, 8080, false},
		"from us to a neighbour":            {"127.0.0.1", "192.0.2.1", "192.0.2.1", false, unix.IPPROTO_TCP, 8080, false},
		"direct":                            {"127.0.0.1", "127.0.0.1", "172.17.0.2", true, unix.IPPROTO_TCP, 7000, false},
		"direct, and not answerable":        {"127.0.0.1", "127.0.0.1", "172.17.0.2", false, unix.IPPROTO_TCP, 7000, true},
		"direct, to where it was":           {"127.0.0.1", "127.0.0.1", "172.17.0.3", true, unix.IPPROTO_TCP, 7000, true},
		"direct, of another protocol":       {"127.0.0.1", "127.0.0.1", "172.17.0.2", true, unix.IPPROTO_UDP, 7000, true},
		"through the proxy, direct by now":  {"127.0.0.1", "127.0.0.1", "127.0.0.1", false, unix.IPPROTO_TCP, 7000, false},
	}
	for name, test := range tests {
		f := flow{
			forward: tuple{src: ip(test.src), dst: ip(test.dst), proto: test.proto, dstPort: test.port},
			reverse: tuple{src: ip(test.answers), srcPort: 80, dst: ip(test.src)},
		}
		if test.masqueraded {
			f.reverse.dst = ip("172.17.0.1")
		}
		if got := m.has(f); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
