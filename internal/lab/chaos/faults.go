package chaos

import (
	"errors"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// A fault is one step: something that breaks, changes or comes back.
type fault struct {
	name string
	// weight is how often it comes, among those that can.
	weight int
	can    func(w *world) bool
	do     func(w *world) error
	kind   kind
}

// A kind is what is known of a fault.
type kind int

const (
	// others: it changes what is not wslmirror's.
	others kind = 1 << iota
	// cuts: it ends connections, or may.
	cuts
	// damages: wslmirror has something to repair even where the same is expected
	// as before.
	damages
	// settled: it needs a world in which all is as expected.
	settled
	// floods: it wakes wslmirror more often than it cares to look.
	floods
)

// faults are all there are. Whatever puts an end to a fault comes more often
// than a new one, so that the world is whole half of the time.
var faults = slices.Concat(linkFaults, floodFaults, ruleFaults, foreignFaults, engineFaults, daemonFaults, holderFaults)

// Faults are the names of all faults.
func Faults() (names []string) {
	for _, f := range faults {
		names = append(names, f.name)
	}
	return append(names, restored, untilHeld)
}

// restored stands for each fault after which wslmirror has to restore what WSL had set
// up, in the times.
const restored = "a part of WSL's setup lost"

func always(*world) bool { return true }

// ignoring is err unless it is that one.
func ignoring(which, err error) error {
	if errors.Is(err, which) {
		return nil
	}
	return err
}

// choose chooses the next fault.
func (w *world) choose() fault {
	var can []fault
	total := 0
	for _, f := range faults {
		if f.can(w) {
			can = append(can, f)
			total += f.weight
		}
	}
	n := w.rng.IntN(total)
	for _, f := range can {
		if n -= f.weight; n < 0 {
			return f
		}
	}
	panic("unreachable")
}

// loopback0Is is a condition of a fault.
func loopback0Is(p place) func(*world) bool {
	return func(w *world) bool { return w.loopback0 == p }
}

// toPlace is a fault after which loopback0 is elsewhere.
func toPlace(do func(*world) error, p place) func(*world) error {
	return func(w *world) error {
		w.loopback0 = p
		return do(w)
	}
}

var linkFaults = []fault{
	{"loopback0 deleted", 2, loopback0Is(present), toPlace(func(w *world) error { return w.bench.RemoveLoopback0() }, absent), others | cuts},
	{"loopback0 made again", 15, loopback0Is(absent), toPlace(func(w *world) error { return w.bench.AddLoopback0() }, present), others | cuts},
	{"loopback0 replaced", 2, loopback0Is(present), func(w *world) error {
		if err := w.bench.RemoveLoopback0(); err != nil {
			return err
		}
		return w.bench.AddLoopback0()
	}, others | cuts | damages},
	{"loopback0 renamed", 2, loopback0Is(present), toPlace(func(w *world) error { return w.bench.RenameLoopback0() }, renamed), others | cuts},
	{"loopback0 has its name again", 15, loopback0Is(renamed), toPlace(func(w *world) error { return w.bench.NameLoopback0() }, present), others | cuts},
	{"loopback0 moved out of the namespace", 2, loopback0Is(present), toPlace(func(w *world) error { return w.bench.MoveLoopback0Out() }, movedOut), others | cuts},
	{"loopback0 moved back", 15, loopback0Is(movedOut), toPlace((*world).moveBack, present), others | cuts},
	{"loopback0 flaps", 2, loopback0Is(present), func(w *world) error {
		for range 3 {
			if err := w.bench.Loopback0Down(); err != nil {
				return err
			}
			if err := w.bench.Loopback0Up(); err != nil {
				return err
			}
		}
		return nil
	}, others | cuts},
	{"a bridge set down", 1, func(w *world) bool { return len(w.docker.bridgesThat(true)) > 0 }, func(w *world) error {
		b := pick(w, w.docker.bridgesThat(true))
		b.up = false
		return w.bench.SetLink(b.name, false)
	}, others | cuts},
	{"a bridge set up", 10, func(w *world) bool { return len(w.docker.bridgesThat(false)) > 0 }, func(w *world) error {
		b := pick(w, w.docker.bridgesThat(false))
		b.up = true
		return w.bench.SetLink(b.name, true)
	}, others | cuts},
}

// moveBack moves loopback0 back, which has lost its address, if it had one.
func (w *world) moveBack() error {
	if err := w.bench.MoveLoopback0In(); err != nil || w.cfg.Mode != lab.Consomme {
		return err
	}
	_, err := w.bench.WSL.Run("ip", "addr", "add", loopback0Addr+"/28", "dev", "loopback0")
	return err
}

// loopback0Addr is the address of loopback0 in consomme.
const loopback0Addr = "169.254.73.250"

// bridgesThat are those that are up, or down.
func (e *engine) bridgesThat(up bool) (list []*bridge) {
	for _, b := range e.bridges {
		if b.there && b.up == up {
			list = append(list, b)
		}
	}
	return list
}

var ruleFaults = []fault{
	{"nft flush ruleset", 8, (*world).mayLose, func(w *world) error {
		w.lose()
		for _, e := range w.engines() {
			e.rules = false
		}
		w.foreign.redirects, w.foreign.blocklist = false, false // the table that is owned stays
		if err := w.bench.FlushRuleset(); err != nil {
			return err
		}
		return w.nft(canaryTable)
	}, others | cuts},
	{"WSL's rule for loopback0 deleted", 4, func(w *world) bool { return w.loopback0 == present && w.mayLose() }, func(w *world) error {
		w.lose()
		rule := netlink.NewRule()
		rule.Priority, rule.IifName, rule.IPProto, rule.Table = 0, "loopback0", unix.IPPROTO_TCP, unix.RT_TABLE_LOCAL
		for { // WSL may have doubled it
			if err := w.bench.WSL.Net.RuleDel(rule); err != nil {
				return ignoring(unix.ENOENT, err)
			}
		}
	}, others | cuts},
	{"table 127 flushed", 4, func(w *world) bool { return w.loopback0 == present && w.mayLose() }, func(w *world) error {
		w.lose()
		_, err := w.bench.WSL.Run("ip", "route", "flush", "table", "127")
		return err
	}, others | cuts},
	{"WSL starts anew", 10, func(w *world) bool { return w.wsl.hit && w.loopback0 == present }, func(w *world) error {
		w.wsl.hit = false
		if s, err := w.look(); err != nil || w.lost(s) == "" {
			return err // it was restored in the meantime
		}
		return w.bench.SetUpAgain()
	}, others | cuts},
	{"WSL plugs loopback0 in again", 2, func(w *world) bool { return w.loopback0 == present && !w.shadowed }, func(w *world) error {
		return w.bench.ReplugLoopback0()
	}, others | cuts | damages},
	{"our table attacked", 2, always, func(w *world) error {
		// Either it is owned, or it is not there.
		_ = w.bench.FlushTable(2 /* ip */, "wslmirror")
		_ = w.bench.DeleteTable(2 /* ip */, "wslmirror")
		return nil
	}, 0},
	{"our ip rule deleted", 3, (*world).serving, (*world).deleteRule, damages},
	{"an ip rule shadows ours", 1, func(w *world) bool { return !w.shadowed }, func(w *world) error {
		w.shadowed = true
		if err := w.shadow(true); err != nil {
			return err
		}
		return w.deleteRule()
	}, others | cuts | damages},
	{"the shadow is gone", 10, func(w *world) bool { return w.shadowed }, func(w *world) error {
		w.shadowed = false
		return w.shadow(false)
	}, others | cuts},
	{"ufw sets all.rp_filter", 1, func(w *world) bool { return !w.rpFilter }, func(w *world) error {
		w.rpFilter = true
		return w.sysctl("all", "rp_filter", true)
	}, others | cuts},
	{"all.rp_filter is 0 again", 10, func(w *world) bool { return w.rpFilter }, func(w *world) error {
		w.rpFilter = false
		return w.sysctl("all", "rp_filter", false)
	}, others | cuts},
	{"route_localnet of eth0 changed", 1, always, func(w *world) error {
		w.eth0Open = !w.eth0Open
		if err := w.sysctl("eth0", "route_localnet", w.eth0Open); err != nil {
			return err
		}
		return w.nudge()
	}, others},
	{"route_localnet of a bridge changed", 2, func(w *world) bool {
		// Once a part of WSL's setup was lost, the bridges are opened when it is restored, and
		// nobody knows when that is.
		return w.canEnd() && w.serving() && !w.wsl.hit && len(w.docker.bridgesThat(true)) > 0
	}, func(w *world) error {
		b := pick(w, w.docker.bridgesThat(true))
		on := w.rng.IntN(2) == 0
		// While wslmirror has opened it, it remembers that it was not before.
		if !w.needed(b) || b.open {
			b.open = on
		}
		if err := w.sysctl(b.name, "route_localnet", on); err != nil {
			return err
		}
		return w.nudge()
	}, others | cuts | damages | settled},
}

var engineFaults = []fault{
	{"a port published", 6, func(w *world) bool { return canPublish(w.docker) }, publishOne(func(w *world) *engine { return w.docker }), others},
	{"a port withdrawn", 4, func(w *world) bool { return len(w.docker.published()) > 0 }, withdrawOne(func(w *world) *engine { return w.docker }), others},
	{"a port published by the kernel", 4, func(w *world) bool { return canPublish(w.podman) }, publishOne(func(w *world) *engine { return w.podman }), others},
	{"a port withdrawn by the kernel", 3, func(w *world) bool { return len(w.podman.published()) > 0 }, withdrawOne(func(w *world) *engine { return w.podman }), others},
	{"a port moves to another container", 3, func(w *world) bool { return len(w.docker.plugged()) > 0 && len(w.docker.published()) > 0 }, func(w *world) error {
		p := pick(w, w.docker.published())
		w.cut(func(a way) bool { return a.port == p })
		if err := p.release(); err != nil {
			return err
		}
		if err := p.publish(pick(w, w.docker.plugged())); err != nil {
			return err
		}
		return w.docker.write()
	}, others},
	{"a container gone", 2, func(w *world) bool { return len(w.docker.plugged()) > 0 }, func(w *world) error {
		return w.docker.unplug(pick(w, w.docker.plugged()))
	}, others},
	{"a container back", 8, func(w *world) bool { return len(w.docker.unplugged()) > 0 }, func(w *world) error {
		return w.docker.plug(pick(w, w.docker.unplugged()))
	}, others},
	{"a network removed", 1, func(w *world) bool { return w.docker.bridges[1].there }, func(w *world) error {
		return w.docker.remove(w.docker.bridges[1])
	}, others},
	{"a network made", 8, func(w *world) bool { return !w.docker.bridges[1].there }, func(w *world) error {
		return w.docker.create(w.docker.bridges[1])
	}, others},
	{"an engine restarted", 2, (*world).ruled, func(w *world) error {
		return pick(w, w.engines()).restart()
	}, others | cuts | damages},
	{"an engine writes its rules again", 25, func(w *world) bool { return !w.ruled() }, func(w *world) error {
		for _, e := range w.engines() {
			if !e.rules {
				return e.restart()
			}
		}
		return nil
	}, others | cuts},
}

func canPublish(e *engine) bool { return len(e.free()) > 0 && len(e.plugged()) > 0 }

func publishOne(of func(*world) *engine) func(*world) error {
	return func(w *world) error {
		e := of(w)
		if err := pick(w, e.free()).publish(pick(w, e.plugged())); err != nil {
			return err
		}
		return e.write()
	}
}

func withdrawOne(of func(*world) *engine) func(*world) error {
	return func(w *world) error {
		e := of(w)
		p := pick(w, e.published())
		w.cut(func(a way) bool { return a.port == p })
		if err := p.release(); err != nil {
			return err
		}
		return e.write()
	}
}

// unplugged are the containers that could come back.
func (e *engine) unplugged() (list []*container) {
	for _, b := range e.bridges {
		for _, c := range b.containers {
			if !c.plugged && b.up {
				list = append(list, c)
			}
		}
	}
	return list
}

// aWhile is longer than any reading of the kernel may take.
const aWhile = 2200 * time.Millisecond
