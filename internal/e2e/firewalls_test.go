package e2e

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/trace"
)

// A walled is a bench with a distribution that has real programs for firewalls.
type walled struct {
	*testing.T
	*lab.Bench
	distro *lab.Distro
	daemon *daemon
	// check is the check that covers the firewall, and fine is what it says without a fault.
	check, fine string
}

// newWalled boots the distribution.
func newWalled(t *testing.T, check, fine string) *walled {
	t.Helper()
	labtest.NeedTree(t)
	b := labtest.New(t, lab.Options{})
	distro, err := b.WSL.BootFirewalls("debian")
	if err != nil {
		t.Fatal(err)
	}
	return &walled{T: t, Bench: b, distro: distro, check: check, fine: fine}
}

// serve starts a container, servers in Linux and in Windows, and a daemon.
func (w *walled) serve(engine lab.Engine, args ...string) *lab.Container {
	w.Helper()
	c := labtest.RunContainer(w.T, engine, "web", "8080:80/tcp", "8080:80/udp")
	for at, h := range map[string]*lab.Host{"127.0.0.1:9000": w.WSL, "0.0.0.0:9001": w.WSL, "127.0.0.1:7000": w.Windows} {
		if _, err := h.ServeEcho("tcp", at); err != nil {
			w.Fatal(err)
		}
	}
	w.daemon = start(w.T, w.WSL, args...)
	w.daemon.await("two ports", func(s status.Snapshot) bool { return s.State == status.Active && len(s.Ports) == 2 })
	return c
}

// sh runs lines in the distribution, as a user types them.
func (w *walled) sh(lines ...string) {
	w.Helper()
	for _, line := range lines {
		if _, err := w.distro.Run("sh", "-ec", line); err != nil {
			w.Fatal(err)
		}
	}
}

// forecast checks that trace is sure of the same verdict for both clients of each port, and
// that it happens. It returns the commands that trace suggests.
func (w *walled) forecast(when string, want trace.Verdict) (fixes []string) {
	w.Helper()
	for _, port := range []string{"9000", "8080", "8080/udp"} {
		for client, f := range forecasts(w.T, w.Bench, port) {
			if f.Verdict != want {
				w.Errorf("%s: from %s it %s, want %s\n%s", when, client, f.Verdict, want, tell(w.T, w.Bench, port))
			}
			happens(w.T, w.Bench, client, port, f)
			for _, line := range f.Fix {
				if !slices.Contains(fixes, line) {
					fixes = append(fixes, line)
				}
			}
		}
	}
	return fixes
}

// lost checks that doctor names the firewall as the only fault, and what is lost. It returns
// the commands that doctor suggests.
func (w *walled) lost(what string) []string {
	w.Helper()
	got := diagnose(w.T, w.WSL, w.daemon.dir)
	got.expect(w.T, what, w.check)
	got.sees(w.T, w.check, doctor.Fault, what)
	return strings.Split(got.check(w.check).Do, "\n")
}

// passes checks that doctor finds no fault, and that packets pass in all directions.
func (w *walled) passes(when string) {
	w.Helper()
	got := diagnose(w.T, w.WSL, w.daemon.dir)
	got.expect(w.T, when)
	got.sees(w.T, w.check, doctor.OK, w.fine)
	w.forecast(when, trace.Reaches)
	answers(w.T, when, w.WSL, "tcp", "7000", "Windows")
}

// Real firewalls with a real Docker: doctor names them, trace forecasts what they do, and both
// suggest commands that cure it for Windows and Linux as they are printed.
func TestFirewalls(t *testing.T) {
	playMirrored(t)
	for name, test := range map[string]struct {
		check, fine     string
		on, off, reload string
		// gone is what the check says after off.
		gone doctor.Verdict
		// refuses says that clients in Linux are told, and need not wait.
		refuses bool
		// more are scripts with which the user denies more than the default does.
		more []string
	}{
		"nftables": {
			check: "input", fine: "no rule stops packets", gone: doctor.OK,
			// The example of Debian. It begins with "flush ruleset", which is another fault.
			on:  "sed '/^flush ruleset/d' /usr/share/doc/nftables/examples/workstation.nft >/etc/nftables.conf; nft -f /etc/nftables.conf",
			off: "nft delete table inet filter", reload: "nft list ruleset",
		},
		"ufw": {
			check: "ufw", fine: "ufw is on, and allows loopback0", gone: doctor.NotApplicable,
			on: "ufw --force enable", off: "ufw --force disable", reload: "ufw reload",
			// The rule for loopback0 comes too late for 9000.
			more: []string{"ufw --force reset; ufw deny 9000; ufw allow in on loopback0; ufw default deny outgoing; ufw default reject incoming; ufw --force enable"},
		},
		"firewalld": {
			check: "firewalld", fine: "firewalld is running, and allows loopback0", gone: doctor.NotApplicable,
			on: "systemctl start firewalld", off: "systemctl stop firewalld", reload: "firewall-cmd --reload", refuses: true,
			more: []string{
				// A zone that masquerades, and a policy for all that leaves.
				`echo '<policy target="REJECT"> <ingress-zone name="HOST"/> <egress-zone name="ANY"/> </policy>' >/etc/firewalld/policies/egress.xml; ` +
					"firewall-cmd --permanent --zone=external --change-interface=loopback0; firewall-cmd --reload",
				"firewall-cmd --zone=trusted --add-rich-rule='rule family=ipv4 port port=9000 protocol=tcp drop'",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWalled(t, test.check, test.fine)
			docker, err := w.distro.StartDocker()
			if err != nil {
				t.Fatal(err)
			}
			w.serve(docker)

			w.sh(test.on)
			commands := w.lost("packets are lost: Windows to 8080/tcp, 8080/udp, 9000/tcp")
			if got := w.forecast("by default", trace.Stops); !slices.Equal(got, commands) {
				t.Errorf("trace suggests %q, doctor %q", got, commands)
			}
			// Windows is not told either: an ICMP error to 127.0.0.1 does not leave Linux.
			for client, refused := range map[*lab.Host]bool{w.Windows: false, w.WSL: test.refuses} {
				_, err := client.Ask("tcp", "127.0.0.1:9000", silence)
				var timeout net.Error
				if waits := errors.As(err, &timeout) && timeout.Timeout(); waits == refused {
					t.Errorf("%s is told %v", client.Name, err)
				}
			}
			w.sh(commands...)
			w.passes("cured")
			w.sh(test.reload)
			w.passes("reloaded")

			fromLAN := func(want trace.Verdict, wait time.Duration) []string {
				f := forecasts(t, w.Bench, "9001", "--from", "lan")[trace.LAN]
				if _, err := w.LAN.Ask("tcp", "192.0.2.2:9001", wait); f.Verdict != want || (err == nil) != (want == trace.Reaches) {
					t.Errorf("from the LAN it %s (%s): %v", f.Verdict, f.Why, err)
				}
				return f.Fix
			}
			w.sh(fromLAN(trace.Stops, silence)...)
			fromLAN(trace.Reaches, patience)

			for _, more := range test.more {
				w.sh(more)
				w.sh(w.lost("9000/tcp")...)
				w.passes("cured after " + more)
			}

			w.sh(test.off)
			got := diagnose(t, w.WSL, w.daemon.dir)
			got.expect(t, "off")
			got.sees(t, test.check, test.gone, "")
		})
	}
}

// ufw drops what the kernel forwards from and to containers of an engine that adds no rules
// beside those of ufw.
func TestFirewallForwards(t *testing.T) {
	playMirrored(t)
	w := newWalled(t, "ufw", "ufw is on, and allows loopback0")
	engine := labtest.StartEngine(t, w.Bench, "podman-netavark-nftables")
	c := w.serve(engine, "--to-windows=7000")
	container, _, err := engine.Enter(c)
	if err != nil {
		t.Fatal(err)
	}
	w.daemon.await("a port of Windows", func(s status.Snapshot) bool {
		return slices.ContainsFunc(s.Directions, func(d status.Direction) bool { return d.Active && len(d.Ports) == 1 })
	})
	w.sh("ufw allow in on loopback0; ufw --force enable")
	toWindows := net.JoinHostPort(c.Gateway.String(), "7000")
	if answer, err := container.Ask("tcp", toWindows, silence); err == nil {
		t.Errorf("the container is answered: %q", answer)
	}
	w.sh(w.lost("Windows to 8080/tcp, 8080/udp; containers to Windows")...)
	w.passes("cured")
	if answer, err := container.Ask("tcp", toWindows, patience); answer != "Windows" {
		t.Errorf("the container is told %q, %v", answer, err)
	}
	diagnose(t, w.WSL, w.daemon.dir).sees(t, "container-to-windows", doctor.OK, "containers reach 7000/tcp")
}
