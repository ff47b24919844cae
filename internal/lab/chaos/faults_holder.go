package chaos

import (
	"fmt"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// publishedByRules is a fault after which a holder has a port to hold, and untilHeld
// stands for that in the times.
const (
	publishedByRules = "a port published by rules alone"
	untilHeld        = "a port by rules alone, until it is held"
)

// What happens to the holders, to the ports that only rules publish, and to who else wants
// them.
var holderFaults = []fault{
	{publishedByRules, 6, func(w *world) bool { return w.holds() && canPublish(w.cni) }, publishOne(func(w *world) *engine { return w.cni }), others},
	{"a port withdrawn by rules alone", 4, func(w *world) bool { return w.holds() && len(w.cni.published()) > 0 }, withdrawOne(func(w *world) *engine { return w.cni }), others},
	{"kill -9 of a holder", 3, (*world).hasHolder, restartHolder(unix.SIGKILL), 0},
	{"restart of a holder", 2, (*world).hasHolder, restartHolder(unix.SIGTERM), 0},
	{"SIGSTOP of a holder", 2, func(w *world) bool { return len(w.holdersThat(false)) > 0 }, func(w *world) error {
		h := pick(w, w.holdersThat(false))
		if err := h.log.await(holderStarts); err != nil { // not what becomes the program
			return err
		}
		h.stopped = true
		return h.proc.Process.Signal(unix.SIGSTOP)
	}, 0},
	{"SIGCONT of a holder", 12, func(w *world) bool { return len(w.holdersThat(true)) > 0 }, func(w *world) error {
		h := pick(w, w.holdersThat(true))
		h.stopped = false
		return h.proc.Process.Signal(unix.SIGCONT)
	}, 0},
	{"a daemon starts again beside its holder", 3, func(w *world) bool { return w.hasHolder() && usable(w) }, (*world).restartDaemon, damages},
	{"a program takes a held port", 3, func(w *world) bool { return w.holds() && len(w.takable()) > 0 }, func(w *world) error {
		p := pick(w, w.takable())
		server, err := w.bench.WSL.ServeEcho(p.proto, at(anyAddr, p.number))
		if err != nil {
			sockets, _ := w.bench.WSL.Run("ss", "--all", "--numeric", "--tcp", "--udp", "--processes", fmt.Sprintf("sport = :%d", p.number))
			return fmt.Errorf("beside a holder: %w\n%s", err, sockets)
		}
		p.program = server
		return w.nudge() // nobody tells that a port is bound now
	}, 0},
	{"a program gives a port back", 8, func(w *world) bool { return w.holds() && len(w.cni.those(taken)) > 0 }, func(w *world) error {
		p := pick(w, w.cni.those(taken))
		w.cut(func(a way) bool { return a.port == p })
		err := p.program.Close()
		p.program = nil
		return err
	}, 0},
}

func (w *world) hasHolder() bool { return w.holds() && len(w.daemons) > 0 }

// holdersThat are those that are stopped, or not.
func (w *world) holdersThat(stopped bool) (list []*holder) {
	if !w.holds() {
		return nil
	}
	for _, d := range w.daemons {
		if d.holder.stopped == stopped {
			list = append(list, d.holder)
		}
	}
	return list
}

func taken(p *port) bool { return p.program != nil }

// takable are the ports that a program can have beside a holder: see the table in
// docs/hold.md.
func (w *world) takable() []*port {
	return w.cni.those(func(p *port) bool {
		return p.to != nil && p.program == nil && (p.proto == "tcp" || w.cfg.Mode != lab.Consomme)
	})
}

// restartHolder has systemd start a holder again, which gets its sockets back: Windows
// notices nothing.
func restartHolder(sig unix.Signal) func(*world) error {
	return func(w *world) error {
		d := pick(w, w.daemons)
		if err := d.holder.end(sig); err != nil {
			return err
		}
		return w.startHolder(d)
	}
}

// restartDaemon kills a daemon and has systemd start it again, in an empty runtime
// directory. The holder goes on.
func (w *world) restartDaemon() error {
	d := pick(w, w.daemons)
	if err := d.awaitStart(); err != nil {
		return err
	}
	if len(w.daemons) > 1 { // another may take over, and its holder
		w.cut(func(a way) bool { return a.port != nil && a.port.engine == w.cni })
	}
	_ = d.proc.Close()
	if out, err := d.holder.beside(exec.Command("sh", "-c", `rm -rf "$0"/*`, d.dir)).CombinedOutput(); err != nil {
		return fmt.Errorf("empty %s: %w: %s", d.dir, err, out)
	}
	d.log = new(journal)
	return w.runDaemon(d, d.holder.beside)
}
