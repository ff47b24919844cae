package chaos

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mostDaemons is how many distributions of the VM run one.
const mostDaemons = 3

// What happens to the daemons. Who serves is found out by looking, and the model
// knows only how many there are and how many of these are stopped.
var daemonFaults = []fault{
	{"the first daemon started", 25, func(w *world) bool { return len(w.daemons) == 0 }, (*world).startDaemon, 0},
	{"another daemon started", 3, func(w *world) bool { return len(w.daemons) > 0 && len(w.daemons) < mostDaemons }, (*world).startDaemon, 0},
	{"kill -9 of who serves", 3, (*world).canEnd, endOne(true, unix.SIGKILL), damages},
	{"kill -9 of a standby", 1, func(w *world) bool { return w.canEnd() && len(w.daemons) > 1 }, endOne(false, unix.SIGKILL), 0},
	{"stop of who serves", 2, (*world).canEnd, endOne(true, unix.SIGTERM), damages},
	{"stop of a standby", 1, func(w *world) bool { return w.canEnd() && len(w.daemons) > 1 }, endOne(false, unix.SIGTERM), 0},
	{"SIGSTOP of who serves", 2, (*world).canEnd, stopOne(true), 0},
	{"SIGSTOP of a standby", 1, func(w *world) bool { return w.canEnd() && len(w.daemons) > 1 }, stopOne(false), 0},
	{"SIGCONT", 12, func(w *world) bool { return w.acting() < len(w.daemons) }, func(w *world) error {
		for _, d := range w.daemons {
			if d.stopped {
				d.stopped = false
				return d.proc.Process.Signal(unix.SIGCONT)
			}
		}
		return nil
	}, damages},
	{"kill -9 of one that is stopped", 2, func(w *world) bool { return w.acting() < len(w.daemons) }, func(w *world) error {
		for _, d := range w.daemons {
			if d.stopped {
				return w.end(d, unix.SIGKILL)
			}
		}
		return nil
	}, damages},
	{"stopped for longer than a reading may take", 1, func(w *world) bool { return w.canEnd() && w.rng.IntN(5) == 0 }, func(w *world) error {
		d := pick(w, w.daemons)
		if err := d.awaitStart(); err != nil {
			return err
		}
		if err := d.proc.Process.Signal(unix.SIGSTOP); err != nil {
			return err
		}
		if err := w.nudge(); err != nil {
			return err
		}
		time.Sleep(aWhile)
		return d.proc.Process.Signal(unix.SIGCONT)
	}, 0},
	{"cleanup", 2, always, func(w *world) error {
		out, err := w.bench.WSL.Run(w.cfg.Program, "cleanup")
		if err != nil {
			return fmt.Errorf("cleanup: %w: %s", err, out)
		}
		if len(w.daemons) == 0 {
			w.crashed = false
		}
		return nil
	}, 0},
	{"the runtime directory is full", 1, anyDaemon(func(d *daemon) bool { return !d.full && !d.sealed }), toDaemon(func(d *daemon) bool { return !d.full && !d.sealed }, func(d *daemon) error {
		d.full = true
		// It ends when nothing is left, which is an error; and it never writes more
		// than a little, whatever file system it has come to.
		if err := d.awaitStart(); err != nil {
			return err
		}
		_ = d.inDir("dd", "if=/dev/zero", "of="+d.dir+"/fill", "bs=4k", "count=32")
		return nil
	}), 0},
	{"the runtime directory has room", 4, anyDaemon(func(d *daemon) bool { return d.full }), toDaemon(func(d *daemon) bool { return d.full }, func(d *daemon) error {
		d.full = false
		return d.inDir("rm", d.dir+"/fill")
	}), 0},
	{"the runtime directory is read-only", 1, anyDaemon(func(d *daemon) bool { return !d.full && !d.sealed }), toDaemon(func(d *daemon) bool { return !d.full && !d.sealed }, func(d *daemon) error {
		d.sealed = true
		return d.inDir("mount", "-o", "remount,ro", d.dir)
	}), 0},
	{"the runtime directory is writable", 4, anyDaemon(func(d *daemon) bool { return d.sealed }), toDaemon(func(d *daemon) bool { return d.sealed }, func(d *daemon) error {
		d.sealed = false
		return d.inDir("mount", "-o", "remount,rw", d.dir)
	}), 0},
}

// canEnd says that there is a daemon, and none that is stopped, among which the
// one that serves could be.
func (w *world) canEnd() bool { return len(w.daemons) > 0 && w.acting() == len(w.daemons) }

// role is the daemon that serves, or one that does not. Where nobody serves any
// one is as good.
func (w *world) role(serves bool) (*daemon, error) {
	owner, err := w.owner()
	if err != nil {
		return nil, err
	}
	i := w.rng.IntN(len(w.daemons))
	for range w.daemons {
		d := w.daemons[i%len(w.daemons)]
		if owner == nil || (d == owner) == serves {
			return d, nil
		}
		i++
	}
	return nil, errors.New("no daemon in that role")
}

func endOne(serves bool, sig unix.Signal) func(*world) error {
	return func(w *world) error {
		d, err := w.role(serves)
		if err != nil {
			return err
		}
		return w.end(d, sig)
	}
}

func stopOne(serves bool) func(*world) error {
	return func(w *world) error {
		d, err := w.role(serves)
		if err != nil {
			return err
		}
		// Not the shell that mounts its runtime directory first.
		if err := d.awaitStart(); err != nil {
			return err
		}
		d.stopped = true
		return d.proc.Process.Signal(unix.SIGSTOP)
	}
}

func anyDaemon(ok func(*daemon) bool) func(*world) bool {
	return func(w *world) bool { return slices.ContainsFunc(w.daemons, ok) }
}

func toDaemon(ok func(*daemon) bool, do func(*daemon) error) func(*world) error {
	return func(w *world) error {
		d := w.daemons[slices.IndexFunc(w.daemons, ok)]
		return do(d)
	}
}

// nudge is an event that means nothing: there are changes of which the kernel
// tells nobody, and the daemon's own resync is too seldom to wait for.
func (w *world) nudge() error { return w.flood(1) }

// flood makes 2n events of an address that comes and goes.
func (w *world) flood(n int) error {
	h := w.bench.WSL.Net
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(198, 51, 100, 1), Mask: net.CIDRMask(32, 32)}}
	for range n {
		if err := h.AddrAdd(lo, addr); err != nil {
			return err
		}
		if err := h.AddrDel(lo, addr); err != nil {
			return err
		}
	}
	return nil
}

// deleteRule deletes our ip rule, if it is there.
func (w *world) deleteRule() error {
	rules, err := w.bench.WSL.Net.RuleList(unix.AF_INET)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(rules, func(r netlink.Rule) bool { return r.Protocol == 'W' && r.IifName == "" })
	if i < 0 {
		return nil
	}
	if err := w.bench.WSL.Net.RuleDel(&rules[i]); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete ip rule: %w", err)
	}
	return nil
}

// shadow adds a rule ahead of ours, by which the packets go elsewhere, or
// deletes it.
func (w *world) shadow(on bool) error {
	r := netlink.NewRule()
	mask := uint32(0x1000)
	r.Priority, r.Mark, r.Mask, r.Table, r.Protocol = 0, 0x1000, &mask, 127, unix.RTPROT_STATIC
	if on {
		return w.bench.WSL.Net.RuleAdd(r)
	}
	return w.bench.WSL.Net.RuleDel(r)
}
