package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/tracker"
	"github.com/wslmirror/wslmirror/internal/status"
)

// In a real WSL each bind() costs 11 ms, for any kind of socket, because one thread serves
// the whole VM. So this test counts them and limits their number.
func TestFewBinds(t *testing.T) {
	b := labtest.New(t, lab.Options{Tracker: &tracker.Options{}})
	playMirrored(t)
	count := func(what string, most int, run func()) {
		t.Helper()
		before := len(b.Tracker.Calls())
		run()
		n, sockets := 0, map[string]int{}
		for _, c := range b.Tracker.Calls()[before:] {
			if c.Name == "bind" {
				n++
				sockets[c.Socket]++
			}
		}
		var list []string
		for _, name := range slices.Sorted(maps.Keys(sockets)) {
			list = append(list, fmt.Sprintf("%d %s", sockets[name], name))
		}
		t.Logf("%s: %d: %s", what, n, strings.Join(list, ", "))
		if n > most {
			t.Errorf("%s binds %d times, at most %d before", what, n, most)
		}
	}
	var d *daemon
	count("run", 6, func() {
		d = launch(t, b.WSL, must(t, plain).Command)
		d.awaitState(status.Active)
	})
	count("doctor", 1, func() { diagnose(t, b.WSL, d.dir) })
	publishByRules(t, b, "8080, 8081")
	d.await("the ports", func(s status.Snapshot) bool { return len(s.Ports) == 4 })
	count("hold, for four ports", 4, func() { startHolder(t, d).await("8080/tcp", "8080/udp", "8081/tcp", "8081/udp") })
}
