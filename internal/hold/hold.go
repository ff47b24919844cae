// Package hold holds ports for Windows.
//
// Windows sends a port to Linux only if a socket in Linux is bound to it. Some engines
// (nerdctl, k3s, kube-proxy) let the kernel serve the ports that they publish, and open no
// socket. A [Holder] opens one in their place, in a way that leaves the port free for
// everyone else: see open.
//
// It is a separate process, so that the daemon still needs no internet socket. It reads the
// published ports from the daemon's snapshot and the bound ports from the kernel, and holds
// the difference.
package hold

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/wslmirror/wslmirror/internal/sockdiag"
	"github.com/wslmirror/wslmirror/internal/status"
)

const (
	// bindsPerSecond limits how many ports are opened. For each bind(), the only thread of
	// WSL's port tracker works for 11 ms, and all other binds of the VM wait. So this is a
	// third of its time. At most burst ports are opened in a row.
	bindsPerSecond = 30
	burst          = 15
	// rest is the pause between two passes. Events come in groups.
	rest = 100 * time.Millisecond
	// grace is how long ports are held without a daemon, so that they survive its restart.
	grace = 10 * time.Second
	// engineFirst is how long to wait for an engine that binds its ports itself.
	engineFirst = 10 * time.Second
	// A refused port is tried again when something happens, after a back-off that starts
	// with firstPause and doubles.
	firstPause = time.Second
	mostPause  = 5 * time.Minute
)

// Config configures a Holder.
type Config struct {
	Dir string // the directory in which the daemon publishes
	Log logrus.FieldLogger
	// Publish receives what is held and what is not, whenever that changes.
	Publish func(status.Hold) error
	// Store keeps a socket beyond the end of this process, and Forget closes it. New
	// receives the names later. Both may be nil.
	Store  func(name string, fd int) error
	Forget func(name string) error
}

// A Holder holds ports.
type Holder struct {
	cfg     Config
	held    map[Port]int // sockets
	refused map[Port]*refusal
	since   map[Port]time.Time // when a port was first found unbound that its engine may still bind
	limit   *rate.Limiter
	conn    *sockdiag.Conn // nil until it is needed
	ends    *sockdiag.Ends // nil while no other program's socket matters
	ended   chan struct{}  // has one element if a socket has ended
	blind   bool           // the last pass could not list the sockets
	gone    time.Time      // when the daemon ended, zero if it runs
	last    []status.Port  // what was published at the last pass
	told    status.Hold
	begun   bool // something was published
}

// A refusal is a port that could not be held.
type refusal struct {
	err   error
	due   bool // something has happened since the last attempt
	pause time.Duration
	again time.Time // no attempt before this time
}

// New makes a Holder that continues with the sockets of an earlier one, by name.
func New(cfg Config, kept map[string]int) *Holder {
	h := &Holder{
		cfg: cfg, held: map[Port]int{}, refused: map[Port]*refusal{}, since: map[Port]time.Time{},
		limit: rate.NewLimiter(bindsPerSecond, burst),
		ended: make(chan struct{}, 1),
	}
	for name, fd := range kept {
		p, ok := parseName(name)
		if !ok {
			unix.Close(fd) // another version's
			if cfg.Forget != nil {
				_ = cfg.Forget(name) // systemd's copy would keep the port
			}
			continue
		}
		h.held[p] = fd
	}
	return h
}

// Run holds ports until ctx is done. The sockets then end with the process, except those
// that are stored.
//
// All sockets are opened in the network namespace of the process.
func (h *Holder) Run(ctx context.Context) error {
	w, err := newWatch(h.cfg.Dir)
	if err != nil {
		return err
	}
	defer w.close()
	defer h.watchEnds(false)
	for {
		var later <-chan time.Time
		if wait := h.pass(time.Now()); wait > 0 {
			later = time.After(wait)
		}
		happened := func() {
			for _, r := range h.refused {
				r.due = true
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.C:
			happened()
		case <-h.ended:
			happened()
		case <-later:
		}
	}
}

// pass observes and applies once, and returns how long to wait for the next pass if no
// event comes first; 0: wait for an event.
func (h *Holder) pass(now time.Time) time.Duration {
	defer h.tell()
	s, err := status.Read(h.cfg.Dir)
	switch {
	case err != nil:
		if h.gone.IsZero() {
			h.gone = now
			if !errors.Is(err, fs.ErrNotExist) {
				h.cfg.Log.WithError(err).Warn("could not read the daemon's state")
			}
		}
		if left := grace - now.Sub(h.gone); left > 0 {
			return left
		}
		s = status.Snapshot{State: status.Stopped}
	default:
		h.gone = time.Time{}
		if s.State == status.Error {
			return 0 // not observed, which does not mean gone
		}
	}
	var sockets []sockdiag.Socket
	if list := published(s); len(list) > 0 {
		if sockets, err = h.sockets(); err != nil {
			if h.blind {
				return 0 // perhaps permanent: wait for an event
			}
			h.blind = true
			h.cfg.Log.WithError(err).Warn("could not list the sockets")
			return firstPause
		}
	}
	h.blind = false
	want, taken := decide(s, sockets)
	if !slices.Equal(s.Ports, h.last) {
		h.last = s.Ports
		for _, r := range h.refused { // the program that had the port may be gone
			r.due, r.pause, r.again = true, 0, time.Time{}
		}
	}
	want, wait := h.patient(s, want, now)
	if left := h.apply(s, want, sockets, now); left > 0 && (wait == 0 || left < wait) {
		wait = left
	}
	h.watchEnds(len(taken)+len(h.refused) > 0)
	return wait
}

// patient removes from want the ports that their engine may still bind itself. wait is the
// time until the first of them is due.
func (h *Holder) patient(s status.Snapshot, want []Port, now time.Time) (rest []Port, wait time.Duration) {
	maps.DeleteFunc(h.since, func(p Port, _ time.Time) bool { return !slices.Contains(want, p) })
	for _, p := range want {
		if _, held := h.held[p]; !held && binds(s, p) {
			if h.since[p].IsZero() {
				h.since[p] = now
			}
			if left := engineFirst - now.Sub(h.since[p]); left > 0 {
				if wait == 0 || left < wait {
					wait = left
				}
				continue
			}
		}
		rest = append(rest, p)
	}
	return rest, wait
}

// sockets returns all sockets that wait.
func (h *Holder) sockets() (list []sockdiag.Socket, err error) {
	if h.conn == nil {
		if h.conn, err = sockdiag.Open(); err != nil {
			return nil, err
		}
	}
	list, err = h.conn.Waiting()
	if errors.Is(err, sockdiag.ErrNoUDP) {
		err = nil // then we may hold a UDP port that a program has, which does no harm
	}
	return list, err
}

// apply holds the ports in want and no others.
func (h *Holder) apply(s status.Snapshot, want []Port, sockets []sockdiag.Socket, now time.Time) (wait time.Duration) {
	v4, began := s.Mode == consomme, time.Now()
	var came, went []Port
	defer func() {
		h.log("held for Windows", came)
		h.log("no longer held", went)
	}()
	for p, fd := range h.held {
		if !slices.Contains(want, p) || !holds(fd, p, v4) {
			h.release(p)
			went = append(went, p)
		}
	}
	for p := range h.refused {
		if !slices.Contains(want, p) {
			delete(h.refused, p)
		}
	}
	for _, p := range want {
		if _, ok := h.held[p]; ok {
			continue
		}
		r := h.refused[p]
		switch {
		case r == nil:
		case !r.due:
			continue
		case now.Before(r.again):
			if left := r.again.Sub(now); wait == 0 || left < wait {
				wait = left
			}
			continue
		}
		// Where a firewall drops what is sent on lo, each attempt takes a second.
		if time.Since(began) > 2*time.Second {
			return rest
		}
		if !h.limit.AllowN(now, 1) {
			return burst * time.Second / bindsPerSecond / 2 // until more may be opened
		}
		fd, err := -1, errRights
		if mayBind(p.Number) {
			fd, err = open(p, v4)
			if errors.Is(err, unix.EADDRINUSE) && !v4 && hasIPv6(sockets, p) {
				fd, err = open(p, true)
			}
		}
		if err != nil {
			switch {
			case !errors.Is(err, unix.EADDRINUSE):
			case hasAny(p):
				err = errInUse
			case engineOf(s, p) == podman:
				err = errPodman
			default:
				err = errRefused
			}
			h.refuse(p, err, now)
			continue
		}
		delete(h.refused, p)
		h.held[p] = fd
		if h.cfg.Store != nil {
			if err := h.cfg.Store(p.name(), fd); err != nil {
				h.cfg.Log.WithError(err).Warnf("the socket for %s will not survive a restart of this service", p)
			}
		}
		came = append(came, p)
	}
	return wait
}

func (h *Holder) release(p Port) {
	if h.cfg.Forget != nil {
		if err := h.cfg.Forget(p.name()); err != nil {
			h.cfg.Log.WithError(err).Warnf("systemd may keep the socket for %s", p)
		}
	}
	unix.Close(h.held[p])
	delete(h.held, p)
}

// log writes one line about what happened to the ports.
func (h *Holder) log(what string, list []Port) {
	const most = 4
	if len(list) == 0 {
		return
	}
	slices.SortFunc(list, comparePorts)
	var names []string
	for _, p := range list[:min(most, len(list))] {
		names = append(names, p.String())
	}
	if more := len(list) - most; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	h.cfg.Log.Infof("ports %s: %s", what, strings.Join(names, ", "))
}

// refuse records that a port could not be held.
func (h *Holder) refuse(p Port, err error, now time.Time) {
	r := h.refused[p]
	if r == nil {
		r = &refusal{}
		h.refused[p] = r
	}
	if r.err == nil || r.err.Error() != err.Error() {
		h.cfg.Log.WithError(err).Warnf("could not hold %s, so Windows does not know of it", p)
	}
	r.err, r.due = err, false
	r.pause = min(max(2*r.pause, firstPause), mostPause)
	r.again = now.Add(r.pause)
}

// watchEnds makes the end of a socket wake the loop, or stops that. It is on only while the
// end of a socket can leave a port to hold.
func (h *Holder) watchEnds(on bool) {
	switch {
	case on && h.ends == nil:
		ends, err := sockdiag.WatchEnds()
		if err != nil {
			h.cfg.Log.WithError(err).Warn("could not watch for closed sockets")
			return
		}
		h.ends = ends
		signal(h.ended) // one may have ended since the sockets were listed
		go func() {
			for ends.Next() == nil {
				signal(h.ended)
			}
		}()
	case !on && h.ends != nil:
		h.ends.Close()
		h.ends = nil
	}
}

// tell publishes the result if it has changed.
func (h *Holder) tell() {
	var now status.Hold
	for _, p := range slices.SortedFunc(maps.Keys(h.held), comparePorts) {
		now.Held = append(now.Held, p.String())
	}
	for _, p := range slices.SortedFunc(maps.Keys(h.refused), comparePorts) {
		r := h.refused[p]
		now.Refused = append(now.Refused, status.Refusal{Port: p.String(), Windows: errors.Is(r.err, errRefused), Reason: r.err.Error()})
	}
	if h.begun && slices.Equal(now.Held, h.told.Held) && slices.Equal(now.Refused, h.told.Refused) {
		return
	}
	if h.cfg.Publish(now) == nil {
		h.begun, h.told = true, now
	}
}

var (
	errInUse  = errors.New("another program uses the port, with a socket that Windows does not see")
	errPodman = errors.New("refused by Windows, or held by Podman 6 with a socket that kernels before 6.8 do not show: set force_port_listen = true in containers.conf")
	errRights = errors.New("a port below 1024 needs CAP_NET_BIND_SERVICE")
)
