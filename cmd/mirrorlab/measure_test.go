package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// The tool measures, with a real Docker: what it finds are not speeds, which
// would differ everywhere, but what must hold on any machine.
func TestBench(t *testing.T) {
	labtest.NeedTree(t)
	if err := build(); err != nil {
		t.Fatal(err)
	}
	bench := func(trial string) report {
		t.Helper()
		svg := filepath.Join(t.TempDir(), "bench.svg")
		code, stdout, stderr := call(t, "bench", "--wslmirror", filepath.Join(programs, "wslmirror"), "--engine", "docker-20.10",
			"--trial", trial, "--rounds", "1", "--seconds", "1", "--json", "--svg", svg)
		if code != exitOK {
			t.Fatalf("exit %d: %s", code, stderr)
		}
		var r report
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(svg); err != nil {
			t.Error(err)
		}
		if r.Machine.Docker == "" || r.Machine.Wrk == "unknown" || r.Machine.Wslmirror == "" || r.Machine.Kernel == "" {
			t.Errorf("the machine: %+v", r.Machine)
		}
		return r
	}
	value := func(r report, q quantity, client string, v variant) float64 {
		t.Helper()
		for _, s := range r.Series {
			if s.Key == q.Key && s.Client == client && s.Variant == v.Key {
				return s.Median
			}
		}
		t.Errorf("there is no %s of %s from %s", q.Key, v.Key, client)
		return math.NaN()
	}

	r := bench("bulk")
	for _, client := range bothClients {
		for _, v := range allVariants {
			for _, q := range []quantity{bulk, cpu} {
				if got := value(r, q, client, v); !(got > 0) {
					t.Errorf("%s of %s from %s: %v", q.Key, v.Key, client, got)
				}
			}
		}
	}
	r = bench("many")
	if got := value(r, manyFailed, inWindows, byDirect); got != 0 {
		t.Errorf("direct: %v requests failed", got)
	}
	if got := value(r, manyPorts, inWindows, byDirect); got != 0 {
		t.Errorf("direct: %v source ports are in use, and a connection should cost none", got)
	}
	if got := value(r, manyFailed, inWindows, byProxy); got == 0 {
		t.Errorf("docker-proxy: no request failed, with %d connections and %d ports", many, fewPorts)
	}
	if got := value(r, manyPorts, inWindows, byProxy); got < fewPorts/2 || got > fewPorts {
		t.Errorf("docker-proxy: %v source ports are in use, of %d", got, fewPorts)
	}
}

func TestBenchNeedsWrk(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	self, err := os.Executable() // a program that exists
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := call(t, "bench", "--wslmirror", self)
	if code != exitFailure || stdout != "" || !strings.Contains(stderr, "wrk") || !strings.Contains(stderr, "\nhint: apt-get install wrk\n") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

// sample is a report of six rounds with invented numbers.
func sample() *report {
	r := &report{
		Command: "mirrorlab bench --rounds 6", Rounds: 6, Seconds: 1,
		Machine: machine{"CPU X", 2, "6.18", "29", "4.1.0", "0.1.0", "2026-01-02"},
		Notes:   []string{"UDP, docker-proxy from Linux: 3 got no answer"},
	}
	for round := range 6 {
		for i, v := range allVariants {
			for _, client := range bothClients {
				r.add(keepAlive, client, v, float64(10000*(i+1)+round%2*500))
				r.add(cpu, client, v, 3/float64(i+1))
			}
		}
		r.add(manyFailed, inWindows, byProxy, 1234)
		r.add(manyFailed, inWindows, byDirect, 0)
	}
	r.Others.Values = []float64{0.01, 0.04, 0.25}
	r.compare()
	return r
}

func TestReport(t *testing.T) {
	for name, got := range map[string]string{"bench.txt": sample().text(), "bench.md": sample().markdown()} {
		golden := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want := readFile(t, golden); got != want {
			t.Errorf("%s: got:\n%s\nwant:\n%s", name, got, want)
		}
	}
}

// Ratios are of pairs of a round, and what cannot be divided is left out.
func TestCompare(t *testing.T) {
	r := &report{Others: summary{Values: []float64{0}}}
	for _, pair := range [][2]float64{{10, 30}, {100, 100}, {50, 100}} {
		r.add(udp, inLinux, byProxy, pair[0])
		r.add(udp, inLinux, byDirect, pair[1])
		r.add(manyFailed, inWindows, byProxy, 0)
		r.add(manyFailed, inWindows, byDirect, pair[1])
	}
	r.compare()
	if len(r.Ratios) != 1 {
		t.Fatalf("%d ratios, want 1", len(r.Ratios))
	}
	x := r.Ratios[0]
	if x.Median != 2 || x.Min != 1 || x.Max != 3 || x.mark() != "✓" || *x.Goal != 2 {
		t.Errorf("%+v, want 2 (1–3), as its goal", x)
	}
	one := 1.0
	for _, test := range []struct {
		quantity
		median, low, high float64
		want              string
	}{
		{udp, 1, 0.9, 1.1, "✓"}, {udp, 0.9, 0.8, 1, "≈"}, {udp, 0.9, 0.8, 0.99, "✗"},
		{cpu, 1, 0.9, 1.1, "✓"}, {cpu, 1.1, 1, 1.2, "≈"}, {cpu, 1.1, 1.01, 1.2, "✗"},
	} {
		x := ratio{quantity: test.quantity, Goal: &one, summary: summary{Median: test.median, Low: test.low, High: test.high, Values: make([]float64, 6)}}
		if got := x.mark(); got != test.want {
			t.Errorf("%s %g (%g–%g): %s, want %s", x.Key, x.Median, x.Low, x.High, got, test.want)
		}
	}
	if x := (&ratio{Goal: &one, summary: summary{Median: 0.5, Low: 0.5, High: 0.5, Values: make([]float64, 5)}}); x.mark() != "≈" {
		t.Errorf("five rounds are marked %s", x.mark())
	}
	// The tables of the sign test.
	for n, want := range map[int]int{1: 0, 5: 0, 6: 0, 8: 0, 9: 1, 10: 1, 12: 2, 15: 3, 20: 5, 30: 9} {
		if got := outside(n); got != want {
			t.Errorf("of %d, %d are outside at either end, want %d", n, got, want)
		}
	}
	for turn, want := range []string{"abc", "bca", "cab", "cba", "acb", "bac", "abc"} {
		got := ""
		for _, v := range inTurn([]variant{{Key: "a"}, {Key: "b"}, {Key: "c"}}, turn) {
			got += v.Key
		}
		if got != want {
			t.Errorf("turn %d: %s, want %s", turn, got, want)
		}
	}
	even := summary{Values: []float64{4, 1, 3, 2}}
	if even.summarize(); even.Median != 2.5 || even.Min != 1 || even.Max != 4 {
		t.Errorf("%+v", even)
	}
	if !slices.Equal(even.Values, []float64{4, 1, 3, 2}) {
		t.Errorf("the order of the rounds is lost: %v", even.Values)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1.00", 0.0456: "0.046", 0.5: "0.500", 1.234: "1.23", 12.34: "12.3", 99: "99.0", 100.4: "100",
		999: "999", 1234: "1,230", 56789: "56,800", 1234567: "1,230,000",
	} {
		if got := number(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}

func TestParseWrk(t *testing.T) {
	const head = "Running 1s test @ http://127.0.0.1:8080/\n  Thread Stats ...\n"
	got, err := parseWrk(head + "counts\t200\t12345\t1500000\t7\t0\n")
	if want := (wrkCounts{200, 12345, 1.5, 7}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "counts", "counts\t200", "counts\tx\ty", "counts\t200\t1\t0\t0\t0", "counts\t0\t0\t1000000\t8\t0", "counts\t200\t1\t1000000\t0\t9"} {
		if got, err := parseWrk(head + bad + "\n"); err == nil {
			t.Errorf("%q: %+v, want an error", bad, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 42 1 1 0 -1 4194560 100 200 0 0 10 20 30 40 20 0 1 0 5 6 7\n"
	for name, text := range map[string]string{"sh": "7 (sh)" + rest, "a) R 1 (b": "7 (a) R 1 (b)" + rest} {
		if got, err := parseStat(text); err != nil || got != (processStat{7, 42, name, 100}) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "7", "7 (sh", "x (sh)" + rest, "7 (sh) S 42", "7 (sh) S x" + rest[5:]} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q: %+v, want an error", bad, got)
		}
	}
}

func TestParseMachine(t *testing.T) {
	if got, err := parseMachine("cpu  100 200 300 4000 500 600 700 800 900 1000\ncpu0 1 2\n"); err != nil || got != 27 {
		t.Errorf("%v, %v; want 27", got, err)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "cpu x 2 3 4 5 6 7 8 9 10", "intr 1 2 3 4 5 6 7 8"} {
		if got, err := parseMachine(bad); err == nil {
			t.Errorf("%q: %v, want an error", bad, got)
		}
	}
}

func TestCPUSeconds(t *testing.T) {
	before, err := cpuSeconds()
	if err != nil {
		t.Fatal(err)
	}
	for after := before; after < before+0.1; {
		if after, err = cpuSeconds(); err != nil { // which is work
			t.Fatal(err)
		}
	}
}

func TestPlot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.svg")
	if err := sample().plot(path); err != nil {
		t.Fatal(err)
	}
	text := readFile(t, path)
	for decoder := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"more is better", "less is better", byDirect.Title, byServer.Title} {
		if !strings.Contains(text, want) {
			t.Errorf("the plot does not say %q", want)
		}
	}
	if err := sample().plot(filepath.Join(t.TempDir(), "no", "folder")); err == nil {
		t.Error("no error for a folder that is not there")
	}
}

func TestReplaceBlock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "performance.md")
	for text, want := range map[string]string{
		"a\n" + benchBlock + "old\n" + blockEnd + "\nb\n": "a\n" + benchBlock + "new\n" + blockEnd + "\nb\n",
		"a\n" + benchBlock: "", // no end
		"a\n" + blockEnd:   "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		err := replaceBlock(path, benchBlock, "new\n")
		if want == "" {
			if err == nil {
				t.Errorf("%q: no error", text)
			}
			want = text
		}
		if got := readFile(t, path); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	// The docs have their place.
	if !bytes.Contains([]byte(readFile(t, "../../docs/performance.md")), []byte(benchBlock)) {
		t.Error("docs/performance.md has no place for the report")
	}
}
