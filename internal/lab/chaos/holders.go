package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
	"github.com/wslmirror/wslmirror/internal/lab/tracker"
)

// A holder is a running "wslmirror hold", beside the daemon of its distribution.
type holder struct {
	proc    *lab.Process
	log     *journal
	store   *store
	mounts  *os.File // the mount namespace of the daemon, with the runtime directory
	stopped bool     // by SIGSTOP
}

// holderStarts is in the first line that it logs.
const holderStarts = "wslmirror hold is starting"

// holds reports whether there are holders, and an engine that needs them.
func (w *world) holds() bool { return w.cfg.Holder != nil && w.cfg.Seed%3 != 2 }

// addHolder starts the holder of a daemon.
func (w *world) addHolder(d *daemon) error {
	if err := d.awaitStart(); err != nil { // it makes the runtime directory that both see
		return err
	}
	own := d.dir + "-hold"
	if err := errors.Join(os.Mkdir(own, 0o755), os.Chown(own, sandbox.User, sandbox.User)); err != nil {
		return err
	}
	mounts, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", d.proc.Process.Pid))
	if err != nil {
		return err
	}
	store, err := newStore(own + ".notify")
	if err != nil {
		return errors.Join(err, mounts.Close())
	}
	d.holder = &holder{store: store, mounts: mounts}
	return w.startHolder(d)
}

// startHolder starts the program of a holder, with the descriptors that are stored.
func (w *world) startHolder(d *daemon) (err error) {
	h := d.holder
	program := w.cfg.Holder.Command("hold", "--runtime-dir", d.dir, "--log-level", "debug")
	cmd := h.beside(exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, program.Args...)...))
	files, names := h.store.files()
	cmd.Env = append(program.Env, "NOTIFY_SOCKET="+h.store.path, "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	cmd.ExtraFiles = files
	h.log, h.stopped = new(journal), false
	cmd.Stderr = h.log
	h.proc, err = w.bench.WSL.Start(cmd)
	for _, f := range files {
		f.Close()
	}
	return err
}

// beside has a command see the runtime directory.
func (h *holder) beside(cmd *exec.Cmd) *exec.Cmd {
	mounts := fmt.Sprintf("--mount=/proc/%d/fd/%d", os.Getpid(), h.mounts.Fd())
	in := exec.Command("nsenter", append([]string{mounts, "--"}, cmd.Args...)...)
	in.Env = cmd.Env
	return in
}

// endHolder ends the holder of a daemon, and what was stored for it.
func (w *world) endHolder(d *daemon, sig unix.Signal) error {
	if d.holder == nil {
		return nil
	}
	w.cut(func(a way) bool { return a.port != nil && a.port.engine == w.cni })
	err := d.holder.end(sig)
	err = errors.Join(err, d.holder.mounts.Close())
	d.holder.store.close()
	d.holder = nil
	return err
}

// end ends the program of a holder.
func (h *holder) end(sig unix.Signal) error {
	if h.proc == nil {
		return nil // it could not be started
	}
	if sig == unix.SIGKILL {
		return h.proc.Close()
	}
	if err := h.log.await(holderStarts); err != nil {
		return err
	}
	if h.stopped { // systemd wakes what it stops
		if err := h.proc.Process.Signal(unix.SIGCONT); err != nil {
			return err
		}
	}
	if err := h.proc.Stop(sig); err != nil {
		return fmt.Errorf("wslmirror hold ended: %w\n%s", err, h.log.tail())
	}
	return nil
}

func (h *holder) died() error {
	if h == nil {
		return nil
	}
	select {
	case <-h.proc.Done():
		return fmt.Errorf("wslmirror hold ended by itself: %w\n%s", h.proc.Wait(), h.log.tail())
	default:
		return nil
	}
}

// holdersJudged reports whether it can be told what should be held: all daemons can
// publish, and all holders can act on it.
func (w *world) holdersJudged() bool {
	return w.holds() && w.acting() == len(w.daemons) && !w.full && !w.sealed && !slices.ContainsFunc(w.daemons, func(d *daemon) bool { return d.holder.stopped })
}

// takeOver is how much longer a holder may take that was refused while another had the
// port. It tries again after a second, and then after two.
var takeOver = lab.Scaled(3 * time.Second)

// settleHolders waits until the holders hold what they should, and Windows knows it. Also
// where that cannot be told, Windows has back what nobody has bound any more.
func (w *world) settleHolders(deadline time.Time) error {
	if !w.holds() {
		return nil
	}
	for w.holdersJudged() {
		over := time.Since(deadline.Add(takeOver))
		wrong, err := w.wronglyHeld()
		if err != nil || wrong == "" {
			return err
		}
		if over > 0 {
			return fmt.Errorf("what is held is not what should be:\n%s", wrong)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return w.bench.Tracker.Advance(time.Hour)
}

// toHold are the ports that should be held: only rules publish them.
func (w *world) toHold() []*port {
	return w.cni.those(func(p *port) bool { return p.to != nil && p.program == nil && w.cni.rules && w.serving() })
}

// wronglyHeld is how what is held differs from what should be.
func (w *world) wronglyHeld() (string, error) {
	var want, known, knows []string
	for _, p := range w.toHold() {
		want = append(want, "held: "+p.element(), "stored: "+p.element())
		known = append(known, "Windows knows: "+p.element())
	}
	for _, p := range w.cni.those(taken) {
		known = append(known, "Windows knows: "+p.element())
	}
	has, err := w.held()
	if wrong := difference(want, has); err != nil || wrong != "" {
		return wrong, err
	}
	// Nobody is in the middle of a bind(), so what the tracker does not see is gone. It
	// keeps for a minute what it has never seen.
	if err := w.bench.Tracker.Advance(time.Hour); err != nil {
		return "", err
	}
	for _, p := range w.cni.those(w.windowsKnows) {
		knows = append(knows, "Windows knows: "+p.element())
	}
	return difference(known, knows), nil
}

// windowsKnows reports whether WSL's tracker has told Windows that Linux has a port.
func (w *world) windowsKnows(p *port) bool {
	number := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[p.proto]
	return w.bench.Tracker != nil && slices.Contains(w.bench.Tracker.Ports(), tracker.Port{Proto: number, Number: p.number})
}

// held are the ports of the sockets that holders have, and of those that are stored for
// them.
func (w *world) held() (list []string, err error) {
	ports, err := w.inetSockets()
	for _, d := range w.daemons {
		for _, inode := range openSockets(d.holder.proc.Process.Pid) {
			if p, ok := ports[inode]; ok {
				list = append(list, "held: "+p)
			}
		}
		for _, inode := range d.holder.store.inodes() {
			list = append(list, "stored: "+ports[inode])
		}
	}
	return list, err
}

// inetSockets are the TCP and UDP sockets of WSL that have a port, by inode.
func (w *world) inetSockets() (ports map[string]string, err error) {
	ports = map[string]string{}
	err = w.bench.WSL.Do(func() error {
		for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + name)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(b)) {
				f := strings.Fields(line)
				if len(f) < 10 || f[0] == "sl" {
					continue
				}
				_, hex, _ := strings.Cut(f[1], ":")
				number, err := strconv.ParseUint(hex, 16, 16)
				if err != nil {
					return err
				}
				ports[f[9]] = fmt.Sprintf("%s . %d", strings.TrimSuffix(name, "6"), number)
			}
		}
		return nil
	})
	return ports, err
}
