package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// Every direction is asked of every engine: what works without wslmirror works with it,
// and so does what wslmirror is for. The docs show the table as it is, in which the bench
// shows the faults.
func TestDirections(t *testing.T) {
	labtest.NeedTree(t)
	if err := build(); err != nil {
		t.Fatal(err)
	}
	wslmirror, err := findProgram("directions", filepath.Join(programs, "wslmirror"))
	if err != nil {
		t.Fatal(err)
	}
	p := newProgress(os.Stderr)
	times, err := refusals(context.Background(), wslmirror, lab.Modes, p)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := directions(context.Background(), wslmirror, lab.Modes, directionSettings(), p)
	if err := errors.Join(err, wslmirror.Close()); err != nil {
		t.Fatal(err)
	}
	for _, fault := range append(directionFaults(rows), refusalFaults(times)...) {
		t.Error(fault)
	}
	t.Log(renderRefusals(times))
	shows(t, "directions", "../../docs/directions.md", markdownDirections(rows)+"\n"+markdownRefusals(times))
}

func TestDirectionFaults(t *testing.T) {
	type answers = struct{ tcp, udp bool }
	all, none, half := answers{true, true}, answers{}, answers{true, false}
	for _, test := range []struct {
		direction
		got  [3]answers
		want string
	}{
		{direction{server: "s"}, [3]answers{none, all, all}, ""},
		{direction{server: "s"}, [3]answers{all, all, half}, `wslmirror breaks it (column "with --path direct")`},
		{direction{server: "s"}, [3]answers{none, half, all}, `wslmirror does not repair it (column "with it")`},
		{direction{server: "s", tcp: true}, [3]answers{none, half, half}, ""},
		{direction{}, [3]answers{none, none, none}, ""},
		{direction{}, [3]answers{none, half, none}, `it is answered, and should not be (column "with it")`},
	} {
		got := directionFaults([]directionRow{{direction: test.direction, engine: "e", got: test.got}})
		if want := strings.TrimSuffix("mirrored: e: : "+test.want, "mirrored: e: : "); strings.Join(got, ", ") != want {
			t.Errorf("%+v: %q, want %q", test, got, want)
		}
	}
}

// What came out the same is one line.
func TestDirectionTable(t *testing.T) {
	var rows []directionRow
	for _, mode := range lab.Modes {
		for _, engine := range []string{"a", "b"} {
			r := directionRow{direction: direction{name: "there", tcp: true}, mode: mode, engine: engine}
			if r.got[1].tcp = true; mode == lab.Consomme && engine == "b" {
				r.got[0].tcp = true
			}
			rows = append(rows, r)
		}
	}
	const want = `| direction | mode | engine | without wslmirror | with it | with --path direct |
|---|---|---|:-:|:-:|:-:|
| there | mirrored, mirrored-hal | all | ✗ | ✓ | ✗ |
| there | consomme | a | ✗ | ✓ | ✗ |
| there | consomme | b | ✓ | ✓ | ✗ |
`
	if got := markdownDirections(rows); got != want {
		t.Errorf("it is\n%s", got)
	}
}

func TestRefusalTimes(t *testing.T) {
	after := func(d time.Duration, n int) refusalTimes {
		return refusalTimes{slices.Repeat([]time.Duration{d}, n), 3 * time.Second}
	}
	never := refusalTimes{nil, 3 * time.Second}
	some := after(time.Second, 197)
	some.took = append(some.took, after(2*time.Second, 3).took...)
	for _, test := range []struct {
		times   refusalTimes
		roughly string
		exactly string
	}{
		{never, "no answer within 3 s", "no answer within 3 s"},
		{after(time.Millisecond, 200), "refused at once", "refused at once (median 0.0010 s, p99 0.0010 s)"},
		{some, "refused after about 1 s", "refused after about 1 s (median 1.0000 s, p99 2.0000 s)"},
		{after(time.Second, 199), "1 of 200 without an answer within 3 s", "1 of 200 without an answer within 3 s (median 1.0000 s, p99 1.0000 s)"},
	} {
		if roughly, exactly := test.times.roughly(), test.times.exactly(); roughly != test.roughly || exactly != test.exactly {
			t.Errorf("%q and %q, want %q and %q", roughly, exactly, test.roughly, test.exactly)
		}
	}
	list := []refusal{
		{lab.Mirrored, never, after(time.Second, 200)},
		{lab.MirroredHAL, never, after(time.Second, 199)},
		{lab.Consomme, after(time.Millisecond, 200), never},
	}
	const want = "mirrored-hal: closed ports: wslmirror does not repair it: 1 of 200 without an answer within 3 s, " +
		"consomme: closed ports: wslmirror breaks it: no answer within 3 s"
	if got := strings.Join(refusalFaults(list), ", "); got != want {
		t.Errorf("%s", got)
	}
}
