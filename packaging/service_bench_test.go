package packaging

import (
	"slices"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// rounds is how often BenchmarkService measures each of its figures.
const rounds = 15

// BenchmarkService measures what systemd and dpkg do with the service, in two distributions
// of one VM:
//
//   - start: "systemctl start" of a stopped service, until systemd has been told
//     that it is ready. This is systemd's own measurement, from the start of the
//     job (InactiveExit) to READY=1 (ActiveEnter). main is the part after systemd
//     has forked the daemon (ExecMainStart).
//   - restart: how long the table is missing in "systemctl restart".
//   - upgrade: how long it is missing in "dpkg --install" of another version.
//   - takeover: how long it is missing when one distribution's service is stopped
//     and the other's takes over.
func BenchmarkService(b *testing.B) {
	labtest.NeedTree(b)
	debs := []string{pkg(b, packages(b, distHigher), "deb"), pkg(b, packages(b, dist), "deb")}
	bench := labtest.New(b, lab.Options{})
	booted := boot(b, bench, "one", "two")
	s, other := booted[0], booted[1]
	for _, s := range booted {
		s.unpack(debs[1])
	}
	took := make(map[string][]time.Duration)
	for i := range rounds {
		s.run("systemctl", "start", "wslmirror")
		ready := s.moment("ActiveEnter")
		took["start"] = append(took["start"], ready-s.moment("InactiveExit"))
		took["start-main"] = append(took["start-main"], ready-s.moment("ExecMainStart"))

		gap := func(what string, act func()) {
			table := watchTable(b, bench)
			act()
			took[what] = append(took[what], table.gap(b))
		}
		gap("restart", func() {
			pid := s.status().PID
			s.run("systemctl", "restart", "wslmirror")
			s.await(status.Active, pid)
		})
		gap("upgrade", func() {
			pid := s.status().PID
			s.unpack(debs[i%2])
			s.await(status.Active, pid)
		})
		other.run("systemctl", "start", "wslmirror")
		other.await(status.Standby, 0)
		gap("takeover", func() {
			s.run("systemctl", "stop", "wslmirror")
		})
		other.await(status.Active, 0)
		other.run("systemctl", "stop", "wslmirror")
	}
	for what, d := range took {
		slices.Sort(d)
		b.ReportMetric(float64(d[len(d)/2].Microseconds())/1000, what+"-median-ms")
		b.ReportMetric(float64(d[len(d)-1].Microseconds())/1000, what+"-max-ms")
	}
	b.ReportMetric(0, "ns/op") // the total is meaningless
}
