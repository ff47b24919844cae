package chaos

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// patience is how long a client waits. What answers on the bench does so within
// milliseconds.
var patience = lab.Scaled(800 * time.Millisecond)

// A way is from a client to a port of 127.0.0.1.
type way struct {
	from   *lab.Host
	proto  string
	number uint16
	answer string
	port   *port // nil: of no engine
}

func (a way) String() string {
	return fmt.Sprintf("%s to 127.0.0.1:%d/%s", a.from.Name, a.number, a.proto)
}

func (a way) addr() string { return fmt.Sprintf("127.0.0.1:%d", a.number) }

// ways are those that should work now.
func (w *world) ways() []way {
	if !w.whole() {
		return nil
	}
	windows, linux := w.bench.Windows, w.bench.WSL
	list := []way{
		{windows, "tcp", linuxPort, linux.Name, nil},
		{linux, "tcp", windowsPort, windows.Name, nil},
	}
	for _, e := range w.engines() {
		for _, p := range e.published() {
			if !p.mirrored() || !p.to.bridge.up {
				continue
			}
			if w.foreign.drops(p) {
				continue
			}
			if !e.proxy && !p.to.bridge.open {
				continue // the engine needs it, and it is not ours to give back
			}
			list = append(list, way{windows, p.proto, p.number, p.to.host.Name, p})
			// What the kernel serves comes back by our ip rule.
			if byKernel := !e.proxy || w.cfg.Direct; !w.shadowed || !byKernel {
				list = append(list, way{linux, p.proto, p.number, p.to.host.Name, p})
			}
		}
	}
	return list
}

// askAll goes all ways at once, again and again until the deadline if it must, and
// at least twice: a machine that stops for a moment costs one answer, and what is
// wrong costs the next one as well.
func (w *world) askAll(deadline time.Time) error {
	ways := w.ways()
	errs := make([]error, len(ways))
	var asking sync.WaitGroup
	for i, a := range ways {
		asking.Go(func() {
			for try := 1; ; try++ {
				answer, err := a.from.Ask(a.proto, a.addr(), patience)
				if err == nil && answer != a.answer {
					err = fmt.Errorf("%q answers, not %q", answer, a.answer)
				}
				if errs[i] = err; err == nil || try > 1 && time.Now().After(deadline) {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	asking.Wait()
	for i, err := range errs {
		if err != nil {
			errs[i] = fmt.Errorf("%s: %w", ways[i], err)
		}
	}
	return errors.Join(errs...)
}

// A keptConn is a connection that must survive whatever does not cut it.
type keptConn struct {
	way    way
	client *lab.Client
}

// mostKept is how many there are at most.
const mostKept = 8

// askKept asks on the connections that there are, and opens others.
func (w *world) askKept() error {
	ways := w.ways()
	if len(ways) == 0 {
		return nil
	}
	for _, k := range w.kept {
		if k.way.port != nil && !slices.Contains(ways, k.way) {
			continue
		}
		if answer, err := k.client.Ask(5 * patience); err != nil || answer != k.way.answer {
			return fmt.Errorf("an established connection, %s: %q, %w", k.way, answer, err)
		}
	}
	for _, a := range ways {
		has := slices.ContainsFunc(w.kept, func(k keptConn) bool { return k.way == a })
		if a.proto != "tcp" || has || len(w.kept) >= mostKept {
			continue
		}
		c, err := a.from.Dial("tcp", "", a.addr(), 2*patience)
		if err != nil {
			return err
		}
		w.kept = append(w.kept, keptConn{a, c})
	}
	return nil
}

// cut closes the connections that something ends, of the ports for which those
// is true, or all.
func (w *world) cut(those func(*port) bool) {
	w.kept = slices.DeleteFunc(w.kept, func(k keptConn) bool {
		if those != nil && (k.way.port == nil || !those(k.way.port)) {
			return false
		}
		k.client.Close()
		return true
	})
}
