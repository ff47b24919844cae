package ruleset

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// An answer is a kernel that answers every request with one message.
type answer []byte

func (a answer) tables(byte) ([][]byte, error) { return [][]byte{a}, nil }
func (a answer) chains(byte) ([][]byte, error) { return [][]byte{a}, nil }
func (a answer) sets(byte) ([][]byte, error)   { return [][]byte{a}, nil }
func (a answer) rulesOf(_ tableID, each func([]byte) bool) error {
	each(a)
	return nil
}
func (a answer) elementsOf(_ setID, each func([]byte) bool) error {
	each(a)
	return nil
}
func (a answer) element(setID, []byte) (*element, error) {
	elements, err := appendElements(nil, a)
	if err != nil || len(elements) == 0 {
		return nil, err
	}
	return &elements[0], nil
}

// Messages from the kernel are trusted, but no bytes may crash the daemon: a newer
// kernel may send something new.
func FuzzDecode(f *testing.F) {
	recorded, err := os.ReadFile("testdata/messages.hex")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(recorded)) {
		seed, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		rs, err := read(answer(msg), ownTable)
		if err != nil {
			if _, r, err := decodeRule(msg); err == nil {
				_, _ = r.all(nil)
			}
			_, _ = appendElements(nil, msg)
			return
		}
		// Whatever was decoded is walked: a rule in a chain, with a set.
		id, r, err := decodeRule(msg)
		if err != nil {
			return
		}
		_, _ = r.all(nil)
		c := &chain{chainID: id, hooked: true, rules: []*rule{r}}
		rs.base = append(rs.base, c)
		rs.chains[id] = c
		rs.rules[id.table] = nil
		_, s, _ := decodeSet(msg)
		for _, e := range r.exprs {
			if l, ok := e.expr.(*expr.Lookup); ok {
				rs.sets[setID{id.table, l.SetName}] = s
			}
		}
		loopback := Iface{"loopback0", 2}
		checkOutcomes(t, rs.Walk(FromWindows(loopback), Sight{}), AllPorts)
		rs.Analyse(loopback, recordedBridges)
	})
}

// The seeds are a kernel's messages for the rulesets in testdata/walk, one for each
// shape. -update records those of this machine's kernel.
func TestRecordMessages(t *testing.T) {
	h, _ := host(t)
	files, err := filepath.Glob("testdata/walk/*")
	if err != nil {
		t.Fatal(err)
	}
	var recorded []string
	seen := map[string]bool{}
	record := func(shape string, msgs ...[]byte) {
		for _, m := range msgs {
			if !seen[shape] {
				recorded = append(recorded, hex.EncodeToString(m)+"\n")
			}
			seen[shape] = true
		}
	}
	for _, file := range files {
		load(t, h, file)
		in(t, h, func() error {
			r, err := OpenReader(ownTable)
			if err != nil {
				return err
			}
			defer r.Close()
			for _, family := range []byte{unix.NFPROTO_INET, unix.NFPROTO_IPV4} {
				for _, msg := range []int{unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE, unix.NFT_MSG_GETSET} {
					msgs, err := r.all(msg, family)
					if err != nil {
						return err
					}
					for _, m := range msgs {
						switch msg {
						case unix.NFT_MSG_GETCHAIN:
							c, _ := decodeChain(m)
							record(fmt.Sprint(c.hooked, c.kind, c.drop), m)
						case unix.NFT_MSG_GETRULE:
							_, rule, _ := decodeRule(m)
							exprs, _ := rule.all(nil)
							var shape []string
							for _, e := range exprs {
								shape = append(shape, e.name)
								switch x := e.expr.(type) {
								case *expr.Match:
									shape = append(shape, x.Name)
								case *expr.Target:
									shape = append(shape, x.Name)
								}
							}
							record(strings.Join(shape, " "), m)
						case unix.NFT_MSG_GETSET:
							id, s, _ := decodeSet(m)
							shape := fmt.Sprint(s.interval, s.concat, s.keyLen)
							record(shape, m)
							if err := r.elementsOf(id, func(m []byte) bool {
								record("elements "+shape, m)
								return true
							}); err != nil {
								return err
							}
						}
					}
				}
			}
			return nil
		})
	}
	const file = "testdata/messages.hex"
	if *update {
		if err := os.WriteFile(file, []byte(strings.Join(recorded, "")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if n := strings.Count(string(b), "\n"); err != nil || n != len(recorded) {
		t.Errorf("%d seeds for %d shapes, %v: update them", n, len(recorded), err)
	}
}

// checkOutcomes checks what must hold for the outcomes of any walk.
func checkOutcomes(t *testing.T, outcomes []Outcome, ports Ports) {
	t.Helper()
	var sure Ports
	for _, o := range outcomes {
		if o.Ports.Empty() {
			t.Fatalf("an outcome without ports: %s", describe(o))
		}
		if !o.Ports.Minus(ports).Empty() {
			t.Fatalf("%s has more than the packet's ports %s", describe(o), ports)
		}
		if o.Sure {
			if !o.Ports.Intersect(sure).Empty() {
				t.Fatalf("%s has a port that surely went elsewhere: %s", describe(o), sure)
			}
			sure = sure.Union(o.Ports)
		}
	}
	// A port with a sure outcome has no unsure one.
	for _, o := range outcomes {
		if both := o.Ports.Intersect(sure); !o.Sure && !both.Empty() {
			t.Fatalf("%s, and surely %s something else", describe(o), both)
		}
	}
}

// A source reads choices from the fuzzer's bytes.
type source []byte

func (s *source) next(n int) int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b) % n
}

func wholeSet(keyLen uint32, elements ...element) *set {
	s := &set{keyLen: keyLen}
	s.fill(elements)
	return s
}

// ruleset makes a small ruleset: four chains with arbitrary jumps between them,
// including loops, and two base chains.
func (s *source) ruleset() *Ruleset {
	table := tableID{unix.NFPROTO_IPV4, "t"}
	rs := &Ruleset{own: tableID{unix.NFPROTO_IPV4, ownTable}, chains: map[chainID]*chain{}, sets: map[setID]*set{}}
	rs.sets[setID{table, "ports"}] = wholeSet(2, element{key: []byte{0, 1}}, element{key: []byte{0, 2}})
	var verdicts []element
	for port := range byte(s.next(4)) {
		verdicts = append(verdicts, element{key: []byte{0, port}, verdict: s.verdict()})
	}
	if s.next(2) == 1 {
		verdicts = append(verdicts, element{catchAll: true, verdict: s.verdict()})
	}
	rs.sets[setID{table, "verdicts"}] = wholeSet(2, verdicts...)
	marks := wholeSet(4,
		element{key: []byte{1, 0, 0, 0}, value: []byte{10, 0, 0, 1}},
		element{key: []byte{2, 0, 0, 0}, value: []byte{10, 0, 0, 2}},
		element{catchAll: true, value: []byte{10, 0, 0, 3}})
	rs.sets[setID{table, "marks"}] = marks
	for i := range 6 {
		c := &chain{chainID: chainID{table, fmt.Sprint("c", i)}}
		if i >= 4 {
			c.hooked, c.priority, c.drop = true, nftables.ChainPriority(i), s.next(2) == 1
			rs.base = append(rs.base, c)
		}
		for range s.next(4) {
			c.rules = append(c.rules, s.rule())
		}
		rs.chains[c.chainID] = c
	}
	return rs
}

func (s *source) verdict() *expr.Verdict {
	kinds := []expr.VerdictKind{
		expr.VerdictAccept, expr.VerdictDrop, expr.VerdictReturn, expr.VerdictContinue,
		expr.VerdictJump, expr.VerdictGoto, expr.VerdictQueue,
	}
	return &expr.Verdict{Kind: kinds[s.next(len(kinds))], Chain: fmt.Sprint("c", s.next(5))} // c4 is a base chain
}

func (s *source) rule() *rule {
	r := &rule{}
	add := func(name string, e expr.Any) { r.exprs = append(r.exprs, namedExpr{name, e}) }
	for range 1 + s.next(3) {
		port := []byte{0, byte(s.next(4))}
		load := func() {
			add("payload", &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
		}
		switch s.next(9) {
		case 0:
			load()
			add("cmp", &expr.Cmp{Op: expr.CmpOp(s.next(6)), Register: 1, Data: port})
		case 1:
			load()
			add("lookup", &expr.Lookup{SourceRegister: 1, SetName: "ports", Invert: s.next(2) == 1})
		case 2:
			add("meta", &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1})
			add("cmp", &expr.Cmp{Op: expr.CmpOp(s.next(6)), Register: 1, Data: []byte{[]byte{6, 17, 1}[s.next(3)]}})
		case 3:
			load()
			add("range", &expr.Range{Op: expr.CmpOp(s.next(2)), Register: 1, FromData: []byte{0, 0}, ToData: port})
		case 4:
			add([]string{"limit", "socket", "queue", "log", "fwd"}[s.next(5)], nil)
		case 5:
			add("meta", &expr.Meta{Key: expr.MetaKeyMARK, Register: 1})
			add("cmp", &expr.Cmp{Op: expr.CmpOp(s.next(6)), Register: 1, Data: []byte{1, 0, 0, 0}})
		case 6:
			load()
			add("lookup", &expr.Lookup{SourceRegister: 1, SetName: "verdicts", IsDestRegSet: true})
		case 7:
			add("meta", &expr.Meta{Key: expr.MetaKeyMARK, Register: 1})
			add("lookup", &expr.Lookup{SourceRegister: 1, SetName: "marks", DestRegister: 1, IsDestRegSet: true})
		case 8:
			load()
			add("bitwise", &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: []byte{0xff, byte(s.next(256))}, Xor: []byte{0, 0}})
			add("cmp", &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: port})
		}
	}
	switch s.next(5) {
	case 0:
		add("immediate", s.verdict())
	case 1:
		add("immediate", &expr.Immediate{Register: 1, Data: []byte{10, 0, 0, 9}})
		add("nat", &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegAddrMax: 1})
	case 2:
		add("nat", &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegAddrMax: 1})
	case 3:
		add("redir", &expr.Redir{})
	}
	return r
}

// Any ruleset, and what must hold for any walk through it.
func FuzzWalk(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x03\x00\x01\x01\x00\x01\x02\x00\x01\x03\x01\x01\x00\x00\x01\x01\x04\x02\x03"))
	f.Add(slices.Repeat([]byte{3, 0, 4, 0, 1}, 40)) // a loop of jumps
	f.Fuzz(func(t *testing.T, choices []byte) {
		s := source(choices)
		rs := s.ruleset()
		p := Packet{Hook: *nftables.ChainHookPrerouting, Src: Localhost, Dst: Localhost, Ports: AllPorts}
		all := rs.Walk(p, Sight{})
		checkOutcomes(t, all, p.Ports)

		// A port's fate does not depend on the other ports of the packet.
		p.Ports = PortSet(Port{tcp, uint16(s.next(4))}, Port{udp, uint16(s.next(4))})
		some := rs.Walk(p, Sight{})
		checkOutcomes(t, some, p.Ports)
		for port := range p.Ports.All() {
			if a, b := fateOf(all, port), fateOf(some, port); !slices.Equal(a, b) {
				t.Fatalf("%s: %v among all ports, %v among %s", port, a, b, p.Ports)
			}
		}
	})
}

// fateOf returns what may happen to a port.
func fateOf(outcomes []Outcome, p Port) (fates []string) {
	for _, o := range outcomes {
		if o.Ports.Has(p) {
			o.Ports = nil
			fates = append(fates, describe(o))
		}
	}
	slices.Sort(fates)
	return slices.Compact(fates)
}
