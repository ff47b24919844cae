package chaos

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// patience is how long a client waits. What answers on the bench does so within
// milliseconds.
var patience = lab.Scaled(800 * time.Millisecond)

// closedPatience is how long a client waits for a refusal, which comes when its first
// packet is sent again, after a second.
var closedPatience = lab.Scaled(3 * time.Second)

// A way is from a client to a port, of 127.0.0.1 or of another address of Linux.
type way struct {
	from      *lab.Host
	proto, to string
	answer    string
	port      *port // nil: of no engine
}

// refused is the answer of a port that nobody has.
const refused = "a refusal"

func (a way) String() string { return fmt.Sprintf("%s to %s/%s", a.from.Name, a.to, a.proto) }

// ask asks once.
func (a way) ask(patience time.Duration) error {
	answer, err := a.from.Ask(a.proto, a.to, patience)
	switch {
	case a.answer == refused && errors.Is(err, unix.ECONNREFUSED):
		return nil
	case err == nil && answer != a.answer:
		return fmt.Errorf("%q answers, not %q", answer, a.answer)
	}
	return err
}

// ways are those that should work now.
func (w *world) ways() []way {
	if !w.whole() {
		return nil
	}
	windows, linux := w.bench.Windows, w.bench.WSL
	list := []way{
		{windows, "tcp", at(localhost, linuxPort), linux.Name, nil},
		{linux, "tcp", at(localhost, windowsPort), windows.Name, nil},
	}
	for _, e := range w.engines() {
		for _, p := range e.published() {
			if p.to.bridge.up {
				list = append(list, w.toPort(p)...)
			}
		}
	}
	for _, e := range []*engine{w.docker, w.podman} {
		for _, c := range e.plugged() {
			list = append(list, w.fromContainers(c)...)
		}
	}
	return list
}

// toPort are the ways to a published port.
func (w *world) toPort(p *port) (list []way) {
	windows, linux, answer := w.bench.Windows, w.bench.WSL, p.to.host.Name
	if w.cfg.Mode == lab.MirroredHAL && p.addr != localhost && !w.shadowed && !p.excepted() {
		list = append(list, way{linux, p.proto, at(lanAddr, p.number), answer, p})
	}
	if !p.mirrored() || w.foreign.drops(p) {
		return list
	}
	if !p.engine.proxy && !p.to.bridge.open {
		return list // the engine needs it, and it is not ours to give back
	}
	if !p.excepted() && (p.engine != w.cni || w.holdersJudged()) {
		list = append(list, way{windows, p.proto, at(localhost, p.number), answer, p})
	}
	// What the kernel serves comes back by our ip rule.
	byKernel := !p.engine.proxy || w.cfg.Direct && !p.excepted()
	dropped := p.excepted() && p.addr == localhost // by Docker
	if (!w.shadowed || !byKernel) && !dropped {
		list = append(list, way{linux, p.proto, at(localhost, p.number), answer, p})
	}
	return list
}

// mostAsking is how many ways are gone at once: six worlds share 1024 descriptors.
const mostAsking = 24

// askAll goes all ways, again and again until the deadline if it must, and at least
// twice: a machine that stops for a moment costs one answer, and what is wrong costs the
// next one as well.
func askAll(ways []way, deadline time.Time) error {
	errs := make([]error, len(ways))
	turns := make(chan struct{}, mostAsking)
	var asking sync.WaitGroup
	for i, a := range ways {
		asking.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			for try := 1; ; try++ {
				wait := patience
				if a.answer == refused {
					wait = closedPatience
				}
				if errs[i] = a.ask(wait); errs[i] == nil || try > 1 && time.Now().After(deadline) {
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

// mostKept is how many there are at most. With a proxy each takes four descriptors.
const mostKept = 20

// askKept asks on the connections that there are, and opens others.
func (w *world) askKept(ways []way) error {
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
		if a.proto != "tcp" || a.answer == refused || has || len(w.kept) >= mostKept {
			continue
		}
		c, err := a.from.Dial("tcp", "", a.to, 2*patience)
		if err != nil {
			return err
		}
		w.kept = append(w.kept, keptConn{a, c})
	}
	return nil
}

// cut closes the connections that something ends, on the ways for which those is true,
// or all.
func (w *world) cut(those func(way) bool) {
	w.kept = slices.DeleteFunc(w.kept, func(k keptConn) bool {
		if those != nil && !those(k.way) {
			return false
		}
		k.client.Close()
		return true
	})
}
