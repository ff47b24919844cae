package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
	"github.com/wslmirror/wslmirror/internal/lab/tracker"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/systemd"
)

// A holder is a running "wslmirror hold".
type holder struct {
	t    *testing.T
	dir  string // of the daemon
	proc *lab.Process
	log  *bytes.Buffer // complete once it has ended
}

// holderService is wslmirror with the rights that the holder's unit gives.
func holderService(t *testing.T) *sandbox.Program {
	t.Helper()
	p := *must(t, service)
	var err error
	if p.Filter, err = sandbox.OfUnit(systemd.HoldUnit); err != nil {
		t.Fatal(err)
	}
	p.Capability = "net_bind_service"
	return &p
}

// startHolder starts a holder beside a daemon.
func startHolder(t *testing.T, d *daemon) *holder {
	t.Helper()
	own := status.HoldDir(d.dir)
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(own, sandbox.User, sandbox.User); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(own) })
	h := &holder{t: t, dir: d.dir, log: new(bytes.Buffer)}
	cmd := holderService(t).Command("hold", "--runtime-dir", d.dir)
	cmd.Env = programEnv(cmd.Env)
	cmd.Stderr = h.log
	var err error
	if h.proc, err = d.host.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.proc.Stop(unix.SIGKILL)
		if t.Failed() {
			t.Logf("log of the holder:\n%s", h.log)
		}
	})
	return h
}

// await waits until it holds these ports, like 8080/tcp, and no others.
func (h *holder) await(ports ...string) {
	h.t.Helper()
	var now status.Hold
	came := false
	defer func() {
		if !came {
			h.t.Logf("it holds %q, refused %+v", now.Held, now.Refused)
		}
	}()
	labtest.Eventually(h.t, fmt.Sprintf("it holds %q", ports), func() bool {
		now, _ = status.ReadHold(status.HoldDir(h.dir))
		return now.Held != nil && slices.Equal(now.Held, append([]string{}, ports...))
	})
	came = true
}

func (h *holder) stop() {
	h.t.Helper()
	if err := h.proc.Stop(unix.SIGTERM); err != nil {
		h.t.Errorf("ended with %v", err)
	}
}

// A port that a real portmap publishes by rules alone is unknown to Windows, and known
// for as long as a holder runs and the container does: in each variant of WSL's port
// tracker.
func TestHold(t *testing.T) {
	for _, mode := range []lab.Mode{lab.Mirrored, lab.Consomme} {
		for name, opts := range map[string]tracker.Options{
			"newest": {}, "old kernel": {OldKernel: true}, "2.8.4": {Version: tracker.Version{2, 8, 4}},
			"2.6.3, old kernel": {Version: tracker.Version{2, 6, 3}, OldKernel: true},
		} {
			t.Run(fmt.Sprintf("%s/%s", mode, name), func(t *testing.T) {
				b := labtest.New(t, lab.Options{Mode: mode, Tracker: &opts})
				cni, err := b.StartPortmap()
				if err != nil {
					t.Fatal(err)
				}
				if err := cni.Publish("8080/tcp", "8080/udp", "80/tcp"); err != nil {
					t.Fatal(err)
				}
				d := start(t, b.WSL)
				d.await("three ports", func(s status.Snapshot) bool { return s.State == status.Active && len(s.Ports) == 3 })
				reach := func(when string, want string) {
					t.Helper()
					for _, proto := range []string{"tcp", "udp"} {
						answers(t, when, b.Windows, proto, "8080", want)
						answers(t, when, b.WSL, proto, "8080", "container")
					}
					answers(t, when, b.Windows, "tcp", "80", want)
				}
				reach("without a holder", "")
				h := startHolder(t, d)
				h.await("80/tcp", "8080/tcp", "8080/udp")
				reach("with a holder", "container")
				// It is still there when the tracker has forgotten all that it does not see.
				if err := b.Tracker.Advance(time.Hour); err != nil {
					t.Fatal(err)
				}
				reach("an hour later", "container")
				if err := cni.Withdraw(); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				h.await()
				labtest.Eventually(t, "Windows has all ports back", func() bool { return len(b.Tracker.Ports()) == 0 })
				t.Logf("given back after %v", time.Since(began).Round(time.Millisecond))
				h.stop()
			})
		}
	}
}

// python runs a program of Python in h.
func python(h *lab.Host, script string, args ...string) (string, error) {
	var out strings.Builder
	cmd := exec.Command("python3", append([]string{"-c", script}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := h.Start(cmd)
	if err == nil {
		err = p.Wait()
	}
	return out.String(), err
}
