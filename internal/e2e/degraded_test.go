package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// On a kernel that lacks a module, the daemon does what it can, reports what it leaves out,
// and starts to do that when the module is loaded.
func TestDegraded(t *testing.T) {
	playMirrored(t)
	for lacking, test := range map[string]struct {
		absent, out []string
		chains      string // the chains that are installed anyway
	}{
		"nft_ct":               {[]string{"ct"}, []string{"localhost from Linux", "closed ports", "containers to Windows"}, "guard WSLPREROUTING"},
		"nft_masq":             {[]string{"masq"}, []string{"localhost from Linux"}, "guard refuse to_windows to_windows_source unanswered WSLPREROUTING"},
		"nft_reject":           {[]string{"reject"}, []string{"closed ports"}, "flowmark guard output postrouting to_windows to_windows_source WSLPREROUTING"},
		"nf_conntrack_netlink": {nil, []string{"reset of earlier connections"}, "flowmark guard output postrouting refuse to_windows to_windows_source unanswered WSLPREROUTING"},
	} {
		t.Run(lacking, func(t *testing.T) {
			b := labtest.New(t, lab.Options{})
			engine, err := b.StartStandIn()
			if err != nil {
				t.Fatal(err)
			}
			if err := engine.Publish("tcp", "0.0.0.0:8080"); err != nil {
				t.Fatal(err)
			}
			// Engines without a proxy open the bridge like this.
			if err := b.WSL.Sysctl("ipv4/conf/docker0/route_localnet", "1"); err != nil {
				t.Fatal(err)
			}
			before := world(t, b.WSL)
			var p *tap
			d := launch(t, b.WSL, func(args ...string) *exec.Cmd {
				var cmd *exec.Cmd
				cmd, p = onTap(t, args...)
				return cmd
			}, "--to-windows", "9100")
			p.setAbsent(test.absent...)
			if test.absent == nil {
				p.setFault(func(_ int, call string) unix.Errno {
					if call == "sendto 0x101" { // IPCTNL_MSG_CT_GET
						return refused
					}
					return 0
				})
			}
			served := make(chan error, 1)
			go func() { served <- p.serve(d.proc) }()

			s := d.await("what it leaves out", func(s status.Snapshot) bool { return len(s.Degraded) > 0 })
			var out []string
			for _, l := range s.Degraded {
				if out = append(out, l.Feature); !strings.Contains(strings.Join(l.Fix, " "), lacking) {
					t.Errorf("%s: the cure is %q", l.Feature, l.Fix)
				}
			}
			if s.State != status.Active || !slices.Equal(out, test.out) {
				t.Errorf("%s: leaves out %q, want %q", s.State, out, test.out)
			}
			if chains := ourChains(t, b.WSL); chains != test.chains {
				t.Errorf("the chains are %s, want %s", chains, test.chains)
			}
			answers(t, "degraded", b.Windows, "tcp", "8080", "container")
			diagnosis := diagnose(t, b.WSL, d.dir)
			diagnosis.expect(t, "degraded")
			diagnosis.sees(t, "kernel", doctor.Warning, test.out[0])

			p.setAbsent()
			p.setFault(nil)
			d.await("that it leaves out nothing", func(s status.Snapshot) bool { return s.State == status.Active && len(s.Degraded) == 0 })
			const all = "flowmark guard output postrouting refuse to_windows to_windows_source unanswered WSLPREROUTING"
			if chains := ourChains(t, b.WSL); chains != all {
				t.Errorf("with the module the chains are %s", chains)
			}
			answers(t, "with the module", b.Windows, "tcp", "8080", "container")
			diagnose(t, b.WSL, d.dir).sees(t, "kernel", doctor.OK, "")
			d.stop(unix.SIGTERM)
			if err := <-served; err != nil {
				t.Error(err)
			}
			if after := world(t, b.WSL); after != before {
				t.Errorf("it leaves\n%s", difference(before, after))
			}
			if n := strings.Count(d.log.String(), "\n"); n > 20 {
				t.Errorf("%d lines in the log:\n%s", n, d.log)
			}
		})
	}
}

// ourChains returns the names of the chains in our table, in natural order.
func ourChains(t *testing.T, h *lab.Host) string {
	t.Helper()
	var names []string
	for line := range strings.Lines(ourTable.FindString(ruleset(t, h))) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == "chain" {
			names = append(names, words[1])
		}
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	return strings.Join(names, " ")
}
