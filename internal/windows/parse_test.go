package windows

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// testdata returns output in the form that the programs print, with headings in several
// languages and in the code pages of their consoles. Only the parts that are not words
// come from users' reports.
func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseExcluded(t *testing.T) {
	recorded := []Range{
		{80, 80, false}, {1628, 1727, false}, {2222, 2222, true},
		{2223, 2322, false}, {5357, 5357, false}, {50000, 50059, true},
	}
	en := testdata(t, "excluded.en")
	tests := map[string]struct {
		out  []byte
		want []Range
		bad  bool
	}{
		"English":             {out: en, want: recorded},
		"Japanese, CP932":     {out: testdata(t, "excluded.ja"), want: recorded},
		"Korean, CP949":       {out: testdata(t, "excluded.ko"), want: recorded},
		"no exclusions":       {out: testdata(t, "excluded.none")},
		"truncated in a row":  {out: en[:bytes.Index(en, []byte("1727"))+2], want: recorded[:1]},
		"truncated in a head": {out: en[:20], bad: true},
		"empty":               {bad: true},
		"a complaint":         {out: []byte("The following command was not found: int ipv4 show.\r\n"), bad: true},
		"what is no range":    {out: []byte("1 2 3\n9 8\n0 65536\n-1 5\n1,5\n70000 1\n5 6 **\n0x1 2\n00000000001 2\n"), bad: true},
		"out of order, twice": {out: []byte("9 10\r\n1 2\r\n9 10\r\n"), want: []Range{{1, 2, false}, {9, 10, false}}},
		"all ports":           {out: []byte("0 65535 *"), want: []Range{{0, 65535, true}}},
		"starred and not":     {out: []byte("5 5\n5 5 *\n"), want: []Range{{5, 5, false}, {5, 5, true}}},
		"hostile":             {out: []byte("\x1b[31m 1 2\n\x00\x00\n\xff\xfe1\x00 \x002\x00\n" + strings.Repeat("9", 1<<16) + " 1\n"), bad: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseExcluded(test.out)
			if (err != nil) != test.bad || !slices.Equal(got, test.want) {
				t.Errorf("%v, %v; want %v", got, err, test.want)
			}
		})
	}
}

func TestParseDynamic(t *testing.T) {
	tests := map[string]struct {
		out  []byte
		want Range
		bad  bool
	}{
		"English":           {out: testdata(t, "dynamic.en"), want: Range{First: 49152, Last: 65535}},
		"Japanese, CP932":   {out: testdata(t, "dynamic.ja"), want: Range{First: 1024, Last: 15000}},
		"Korean, CP949":     {out: testdata(t, "dynamic.ko"), want: Range{First: 49152, Last: 65535}},
		"one number only":   {out: []byte("Start : 49152\r\n"), bad: true},
		"three numbers":     {out: []byte("a : 1\nb : 2\nc : 3\n"), bad: true},
		"beyond the end":    {out: []byte("a : 49152\nb : 16385\n"), bad: true},
		"no ports":          {out: []byte("a : 49152\nb : 0\n"), bad: true},
		"the whole":         {out: []byte("a : 1\nb : 65535\n"), want: Range{First: 1, Last: 65535}},
		"empty":             {bad: true},
		"numbers, no label": {out: []byte("49152\n16384\n"), bad: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseDynamic(test.out)
			if (err != nil) != test.bad || got != test.want {
				t.Errorf("%v, %v; want %v", got, err, test.want)
			}
		})
	}
}

func TestParseListeners(t *testing.T) {
	recorded := []Listener{
		{netip.MustParseAddrPort("0.0.0.0:135"), 1104},
		{netip.MustParseAddrPort("[::]:135"), 1104},
		{netip.MustParseAddrPort("192.0.2.2:139"), 4},
		{netip.MustParseAddrPort("0.0.0.0:445"), 4},
		{netip.MustParseAddrPort("127.0.0.1:9001"), 20480},
	}
	tests := map[string]struct {
		out  []byte
		want []Listener
		bad  bool
	}{
		"English":         {out: testdata(t, "netstat.en"), want: recorded},
		"German, CP850":   {out: testdata(t, "netstat.de"), want: recorded},
		"Japanese, CP932": {out: testdata(t, "netstat.ja"), want: recorded},
		"Korean, CP949":   {out: testdata(t, "netstat.ko"), want: recorded},
		"UDP": {out: testdata(t, "netstat.udp"), want: []Listener{
			{netip.MustParseAddrPort("127.0.0.1:1900"), 7788},
			{netip.MustParseAddrPort("[fe80::1]:1900"), 7788},
			{netip.MustParseAddrPort("0.0.0.0:5353"), 2164},
		}},
		"no listener": {out: []byte("  TCP  192.0.2.2:50122  203.0.113.7:443  ESTABLISHED  5316\r\n")},
		"truncated":   {out: []byte("  TCP    0.0.0.0:135            0.0.0.0:0              LIS"), bad: true},
		"empty":       {bad: true},
		"hostile":     {out: []byte("TCP 1:2 3 4\nTCP 0.0.0.0:99999 0.0.0.0:0 L 4\nTCP 0.0.0.0:1 0.0.0.0:0 L 99999999999\nTCP\n"), bad: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseListeners(test.out)
			if (err != nil) != test.bad || !slices.Equal(got, test.want) {
				t.Errorf("%v, %v; want %v", got, err, test.want)
			}
		})
	}
}

// A Windows with very many ranges and sockets.
func TestParseHuge(t *testing.T) {
	var excluded, sockets bytes.Buffer
	for port := range 65536 {
		fmt.Fprintf(&excluded, "%10d %11d\r\n", port, port)
		fmt.Fprintf(&sockets, "  TCP    0.0.0.0:%-5d 0.0.0.0:0 LISTENING %d\r\n", port, port)
	}
	if got, err := ParseExcluded(excluded.Bytes()); err != nil || len(got) != 65536 {
		t.Errorf("%d ranges, %v", len(got), err)
	}
	if got, err := ParseListeners(sockets.Bytes()); err != nil || len(got) != 65536 {
		t.Errorf("%d listeners, %v", len(got), err)
	}
}

// seed adds the recorded outputs to a fuzzer, whole and truncated.
func seed(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) < 10 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		b := testdata(f, filepath.Base(file))
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Add([]byte("0 65535 *\n1 : 1\nb : 65535\nUDP [::%9]:1 *:* 4294967295\n"))
}

func FuzzParseExcluded(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, out []byte) {
		got, err := ParseExcluded(out)
		for i, r := range got {
			if r.First > r.Last || i > 0 && got[i-1].First > r.First {
				t.Errorf("%v in %v", r, got)
			}
		}
		// What was parsed can be parsed again.
		var again strings.Builder
		for _, r := range got {
			fmt.Fprintf(&again, "%d %d", r.First, r.Last)
			if r.Administered {
				again.WriteString(" *")
			}
			again.WriteString("\r\n")
		}
		if err == nil && got != nil {
			if same, err := ParseExcluded([]byte(again.String())); err != nil || !reflect.DeepEqual(same, got) {
				t.Errorf("%v again is %v, %v", got, same, err)
			}
		}
	})
}

func FuzzParseDynamic(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, out []byte) {
		if r, err := ParseDynamic(out); err == nil && (r.First > r.Last || r.Last == 0) {
			t.Errorf("%v", r)
		}
	})
}

func FuzzParseListeners(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, out []byte) {
		got, err := ParseListeners(out)
		for _, l := range got {
			if err != nil || !l.Addr.IsValid() || l.Addr.Addr().Zone() != "" {
				t.Errorf("%v, %v", l, err)
			}
		}
	})
}

// wslinfo's answer is a single word or an error.
func FuzzParseWord(f *testing.F) {
	for _, s := range []string{"mirrored", "nat\n", "2.9.5.0\r\n", "", "two words", "\xff", "\x1b[31m"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, out []byte) {
		word, err := parseWord(out)
		if err == nil && (len(strings.Fields(word)) != 1 || len(word) > 40 || !bytes.Contains(out, []byte(word))) {
			t.Errorf("%q of %q", word, out)
		}
	})
}
