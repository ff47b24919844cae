package chaos

import (
	"errors"
	"fmt"
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
	{"another daemon started", 3, func(w *world) bool {
		// Who cannot see the beacon takes over at some later time.
		return len(w.daemons) > 0 && len(w.daemons) < mostDaemons && w.foreign.squatter == nil
	}, (*world).startDaemon, 0},
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
	{"kill -9 of one that is stopped", 2, func(w *world) bool { return w.acting() < len(w.daemons) && len(w.holdersThat(true)) == 0 }, func(w *world) error {
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
		if _, err := w.cleanup(); err != nil {
			return err
		}
		if len(w.daemons) == 0 {
			w.crashed = false
		}
		return nil
	}, 0},
	{"the runtime directory is full", 1, usable, eachDir(func(w *world, d *daemon) error {
		// It ends when nothing is left, which is an error; and it never writes more
		// than a little, whatever file system it has come to.
		if err := d.awaitStart(); err != nil {
			return err
		}
		_ = d.inDir("dd", "if=/dev/zero", "of="+d.dir+"/fill", "bs=4k", "count=32")
		return nil
	}, func(w *world) { w.full = true }), 0},
	{"the runtime directory has room", 4, func(w *world) bool { return w.full }, eachDir(func(w *world, d *daemon) error {
		return w.current(d, func() error { return d.inDir("rm", "-f", d.dir+"/fill") })
	}, func(w *world) { w.full = false }), 0},
	{"the runtime directory is read-only", 1, usable, eachDir(func(w *world, d *daemon) error {
		return d.remount("ro")
	}, func(w *world) { w.sealed = true }), 0},
	{"the runtime directory is writable", 4, func(w *world) bool { return w.sealed }, eachDir(func(w *world, d *daemon) error {
		return w.current(d, func() error { return d.remount("rw") })
	}, func(w *world) { w.sealed = false }), 0},
}

// canEnd says that there is a daemon, and none that is stopped, among which the
// one that serves could be. Nor is a holder stopped: whether that ends with its daemon is
// not for the model to say.
func (w *world) canEnd() bool {
	return len(w.daemons) > 0 && w.acting() == len(w.daemons) && len(w.holdersThat(true)) == 0
}

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

// usable says that there are runtime directories, with nothing wrong with them. A
// daemon that is stopped may have a file open in its, which then cannot become
// read-only.
func usable(w *world) bool { return w.canEnd() && !w.full && !w.sealed }

// eachDir does something to the runtime directories of all daemons that there
// are. It is not for the model to say which of them are left later: who ended was
// a matter of roles, and these of time.
func eachDir(do func(*world, *daemon) error, then func(*world)) func(*world) error {
	return func(w *world) error {
		then(w)
		for _, d := range w.daemons {
			if err := do(w, d); err != nil {
				return err
			}
		}
		return nil
	}
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
