package chaos

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// Each limit can be missed.
func TestLimits(t *testing.T) {
	good := SoakResult{
		Took: time.Minute, TakeOvers: 2, Cost: Cost{Memory: 12 << 20, Looks: 400, Threads: 10, Descriptors: 14},
		Early: Level{10 << 20, 12}, Late: Level{11 << 20, 12}, Linux: Load{Broken: 2, InGap: 2}, Containers: Load{Lost: 1, InGap: 1},
	}
	if err := good.Check(); err != nil {
		t.Errorf("of a good one: %v", err)
	}
	for says, spoil := range map[string]func(*SoakResult){
		"bytes of memory":            func(r *SoakResult) { r.Memory = 17 << 20 },
		"threads":                    func(r *SoakResult) { r.Threads = 1000 },
		"descriptors: 40":            func(r *SoakResult) { r.Descriptors = 40 },
		"looks in 1m0s":              func(r *SoakResult) { r.Looks = 500 },
		"from Windows, 1 answers":    func(r *SoakResult) { r.Windows.Lost, r.Windows.InGap = 1, 1 },
		"from Linux, 0 answers":      func(r *SoakResult) { r.Linux.Broken = 3 },
		"memory grows":               func(r *SoakResult) { r.Late.Memory = 14 << 20 },
		"descriptors grow: 12, and":  func(r *SoakResult) { r.Late.Descriptors++ },
		"from containers, 2 answers": func(r *SoakResult) { r.Containers.Lost = 2 },
		"from containers, 3 answers": func(r *SoakResult) { r.Containers = Load{Lost: 3, Broken: 1, InGap: 4} },
	} {
		bad := good
		spoil(&bad)
		if err := bad.Check(); err == nil || !strings.HasPrefix(err.Error(), says) {
			t.Errorf("want %q, get %v", says, err)
		}
	}
	storm := StormResult{Took: time.Minute, Cost: Cost{Descriptors: 15}, Before: 12}
	if err := storm.Check(); err == nil || !strings.Contains(err.Error(), "12 before the storm, 15 in it") {
		t.Errorf("of a storm with a leak: %v", err)
	}
}

// What a gap explains is told apart from what broke otherwise.
func TestGaps(t *testing.T) {
	second := func(from, to int) span { return span{time.Unix(int64(from), 0), time.Unix(int64(to), 0)} }
	var l Load
	l.sort([]failure{
		{second(1, 2), true, "before"}, {second(2, 11), true, "into"}, {second(12, 19), true, "in"}, {second(21, 22), true, "after"},
		{second(12, 19), false, "handed over"}, {second(30, 31), false, "killed"},
	}, []gap{{second(10, 20), false}, {second(30, 31), true}})
	if l.InGap != 3 || !slices.Equal(l.Faults, []string{"before", "after", "handed over"}) {
		t.Errorf("%+v", l)
	}
}

// What grows slowly shows, and what goes up and down does not.
func TestHalves(t *testing.T) {
	var calm, leaky []Level
	for i := range 90 {
		calm = append(calm, Level{uint64(9+i%4) << 20, 12 + i%3})
		leaky = append(leaky, Level{uint64(8<<20 + i<<17), 12 + i/20})
	}
	for _, test := range []struct {
		levels []Level
		grows  bool
	}{{calm, false}, {leaky, true}} {
		early, late := earlyAndLate(test.levels)
		r := SoakResult{Early: early, Late: late}
		if err := r.Check(); (err != nil) != test.grows {
			t.Errorf("%+v and %+v: %v", early, late, err)
		}
	}
}

// A canary that is gone, or looks different, is noticed; what has none in it is not.
func TestCanaries(t *testing.T) {
	before := sight{others: "table inet canary {\n\tiifname \"canary0\" accept\n}\ntable ip nat {\n}\ncanary0/rp_filter=0\n"}
	w := world{canaries: before.canaries()}
	for others, harmed := range map[string]bool{
		before.others: false,
		strings.Replace(before.others, "ip nat", "ip other", 1):         false,
		strings.Replace(before.others, "rp_filter=0", "rp_filter=1", 1): true,
		strings.Replace(before.others, "canary0", "loopback0", 1):       true,
		before.others + "canary0/accept_local=1\n":                      true,
	} {
		if harm := w.harmed(sight{others: others}); (harm != "") != harmed {
			t.Errorf("%q: %q", others, harm)
		}
	}
}
