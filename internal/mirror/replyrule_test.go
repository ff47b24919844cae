package mirror

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/netwatch"
)

func TestOurs(t *testing.T) {
	wsl := netwatch.Rule{Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_LOCAL, Iif: "loopback0", IPProto: unix.IPPROTO_TCP, SuppressPrefix: -1}
	alike := func(change func(r *netwatch.Rule)) netwatch.Rule {
		r := restoreMarker("docker0")
		change(&r)
		return r
	}
	for name, test := range map[string]struct {
		rules   []netwatch.Rule
		reply   bool
		markers []string
	}{
		"none":           {},
		"WSL's":          {rules: []netwatch.Rule{wsl}},
		"ours":           {rules: []netwatch.Rule{wsl, ReplyRule, restoreMarker("docker0"), restoreMarker("br-1")}, reply: true, markers: []string{"docker0", "br-1"}},
		"of no bridge":   {rules: []netwatch.Rule{restoreMarker("")}},
		"another's":      {rules: []netwatch.Rule{alike(func(r *netwatch.Rule) { r.Protocol = unix.RTPROT_BOOT })}},
		"another's mark": {rules: []netwatch.Rule{alike(func(r *netwatch.Rule) { r.Mark = 1 })}},
		"in front":       {rules: []netwatch.Rule{alike(func(r *netwatch.Rule) { r.Priority = 0 })}},
		"inverted":       {rules: []netwatch.Rule{alike(func(r *netwatch.Rule) { r.Not = true })}},
	} {
		if reply, markers := ours(test.rules); reply != test.reply || !slices.Equal(markers, test.markers) {
			t.Errorf("%s: %v, %q; want %v, %q", name, reply, markers, test.reply, test.markers)
		}
	}
}

// The kernel reports our rules as they were added. Deleting ReplyRule leaves the markers of
// bridges alone, whichever is older, and the reverse.
func TestRulesAreToldApart(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	var conn *netwatch.Conn
	err := b.WSL.Do(func() (err error) {
		conn, err = netwatch.Open()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect := func(wantReply bool, wantMarkers ...string) {
		t.Helper()
		rules, err := conn.Rules()
		must(err)
		reply, markers := ours(rules)
		if slices.Sort(markers); reply != wantReply || !slices.Equal(markers, wantMarkers) {
			t.Fatalf("ReplyRule is there: %v, markers of %q; want %v, %q", reply, markers, wantReply, wantMarkers)
		}
	}
	must(conn.AddRule(restoreMarker("docker0")))
	must(conn.AddRule(ReplyRule))
	must(conn.AddRule(restoreMarker("br-1")))
	must(conn.AddRule(ReplyRule)) // it exists already
	expect(true, "br-1", "docker0")
	must(conn.DeleteRule(ReplyRule))
	expect(false, "br-1", "docker0")
	must(conn.DeleteRule(ReplyRule)) // it does not exist any more
	must(conn.AddRule(ReplyRule))
	must(conn.DeleteRule(restoreMarker("docker0")))
	expect(true, "br-1")
	must(conn.DeleteRule(restoreMarker("br-1")))
	expect(true)
	must(conn.DeleteRule(ReplyRule))
	expect(false)
}
