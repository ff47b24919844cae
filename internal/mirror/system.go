package mirror

import (
	"errors"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/conntrack"
	"github.com/wslmirror/wslmirror/internal/nlconn"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
)

// system is the real kernel.
type system struct {
	observer
	lease lease
	log   logrus.FieldLogger
	// unevicted is the last complaint that flows could not be evicted.
	unevicted string
}

func newSystem(host string, p Policy, log logrus.FieldLogger, wake func()) *system {
	s := &system{
		observer: observer{
			host: host, direct: p.Direct, toWindows: p.ToWindows,
			restores: p.Repair, memory: memory{losses: map[string][]time.Time{}},
		},
		lease: lease{wake: wake}, log: log,
	}
	s.lease.serving = s.serving
	return s
}

// serving are the ports of 127.0.0.1 at which somebody serves. Without them, a server
// that has no room at this moment might be taken for a closed port.
func (s *system) serving() []uint16 {
	err := s.openSockets()
	var ports []uint16
	if err == nil {
		ports, err = s.sockets.Serving()
	}
	if err != nil {
		s.log.WithError(err).Warn("could not list the listeners: a busy server may refuse a connection once")
	}
	return ports
}

// observe reads what is there; see observer.observe.
func (s *system) observe(fresh bool) (Observed, error) {
	if err := s.lease.open(); err != nil {
		return Observed{}, err
	}
	seen, err := s.observer.observe(fresh)
	seen.Ours, seen.Lacks = s.lease.held(seen.Table), s.lease.lacks
	return seen, err
}

// apply makes it so.
func (s *system) apply(obs Observed, want Desired) error {
	// First on and last off: as long as packets go to a bridge, what comes back
	// through it for a client here must be delivered here. Sent to Windows it would
	// look like a new flow that clashes with its own, and end in a reset.
	errs := []error{s.setReplyRule(obs, want, true)}
	do := func(err error) bool {
		errs = append(errs, err)
		return err == nil
	}
	// Before our own table makes the rules another generation. That others have
	// changed them since they were read is an event.
	if err := (nft.ForeignChange{Add: want.Add, Remove: want.Remove}).Apply(obs.Generation); !errors.Is(err, nft.ErrChanged) {
		do(err)
	}
	do(s.restore(obs, want.Restore))
	// A bridge is shut when nothing is sent to it any more, or at once if nothing
	// guards it.
	if !obs.Ours {
		do(s.shut(want.Shut))
	}
	if want.Table != nil && !do(s.install(obs, *want.Table)) {
		// A change that was refused leaves the table as it is. Where there is none, or
		// it went with its socket, nothing guards the bridges.
		if !obs.Ours || s.lease.owner == nil {
			do(s.shut(want.Exposed))
		}
		return errors.Join(errs...)
	}
	if obs.Ours {
		do(s.shut(want.Shut))
	}
	// The marker is there for as long as the bridge is open, so that at no moment
	// it could be forgotten.
	for _, l := range want.Open {
		if do(s.net.AddRule(restoreMarker(l.Name))) {
			do(s.net.SetRouteLocalnet(l.Index, true))
		}
	}
	for _, name := range want.Unmark {
		do(s.net.DeleteRule(restoreMarker(name)))
	}
	do(s.setReplyRule(obs, want, false))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if want.Table == nil && obs.Ours {
		return s.lease.drop() // the last, because it guards the bridges
	}
	return nil
}

// shut clears route_localnet of bridges.
func (s *system) shut(bridges []netwatch.Link) error {
	var errs []error
	for _, l := range bridges {
		err := s.net.SetRouteLocalnet(l.Index, false)
		if err == nil {
			err = s.net.DeleteRule(restoreMarker(l.Name))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// setReplyRule adds our ip rule where it should be, or deletes it where it should
// not.
func (s *system) setReplyRule(obs Observed, want Desired, on bool) error {
	switch {
	case obs.ReplyRule == on || want.ReplyRule != on:
		return nil
	case on:
		return s.net.AddRule(ReplyRule)
	}
	return s.net.DeleteRule(ReplyRule)
}

// install makes the table be in the kernel.
func (s *system) install(obs Observed, t nft.Table) error {
	if obs.Ours && obs.Table.Table.Equal(t) {
		return nil
	}
	if err := s.lease.acquire(t, obs.Table); err != nil {
		return err
	}
	s.log.WithFields(logrus.Fields{
		"interface": obs.Host.Name, "index": obs.Host.Index,
		"engine-served": t.EngineServed().String(), "direct": len(t.Targets()), "guarded": t.Guarded(),
	}).Debug("installed the table")
	return nil
}

// show lets the other daemons of this VM see whether this one serves, or has the
// loop woken when the daemon that owns the table ends.
func (s *system) show(serves bool, owner uint32) error {
	err := errors.Join(s.lease.show(serves), s.lease.follow(owner))
	if err != nil {
		log := s.log.WithError(err)
		const says = "no beacon: a standby daemon would take over late"
		if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.ECONNREFUSED) {
			log.Debug(says) // somebody else has the name, or nobody yet
		} else {
			log.Warn(says)
		}
	}
	return err
}

// evict has flows begin anew.
func (s *system) evict(match func(conntrack.Flow) bool) error {
	var n int
	err := insist(func() (err error) {
		n, err = conntrack.Evict(match)
		return err
	}, s.retry("could not reset NAT for earlier connections, retrying"))
	switch {
	case err != nil:
		// Without nf_conntrack_netlink: new flows work, old ones wait for their
		// timeout. No reason to remove the table.
		if err.Error() != s.unevicted {
			s.log.WithError(err).Warn("earlier connections keep their NAT until they time out")
		}
		s.unevicted = err.Error()
		return err
	case n > 0:
		s.log.Infof("reset NAT for %d earlier connections", n)
	}
	s.unevicted = ""
	return nil
}

// undo removes what is ours, which is nothing where another daemon serves.
//
// The table goes last, since it guards what is open. But if a daemon stands by,
// the table goes before the rest, and that one takes over the rest as it is.
func (s *system) undo() error {
	s.observer.restores = false
	_ = s.lease.follow(0)
	shut := false
	tear := func(next func(Observed) Desired) func() error {
		return func() error {
			did, err := s.leave(next)
			shut = shut || did
			return err
		}
	}
	var errs []error
	if s.lease.followed() {
		if err := insist(tear(handOver), s.retry("could not hand over, retrying")); err != nil {
			s.log.WithError(err).Warn("bridges stay open without a table: active connections of Linux may be reset")
		}
		errs = append(errs, s.lease.release())
		for deadline := time.Now().Add(takeOver); time.Now().Before(deadline); time.Sleep(takeOver / 100) {
			if obs, err := s.observer.observe(true); err == nil && obs.Table.Owner != 0 {
				shut = false // and open again
				break
			}
		}
	}
	errs = append(errs, insist(tear(teardown), func(err error) bool {
		s.log.WithError(err).Warn("could not remove everything, retrying")
		return true
	}))
	return errors.Join(append(errs, s.end(shut))...)
}

// end closes everything. shut says that bridges were shut behind flows that went past
// a proxy.
func (s *system) end(shut bool) error {
	if shut {
		_ = s.evict(datagrams(s.last.analysis.EngineServed, s.last.analysis.Published)) // which has told of it
	}
	s.observer.close()
	return s.lease.release()
}

// takeOver is how long a daemon that stands by may take to own the table. It
// does so within milliseconds.
const takeOver = time.Second

// errLeft says that others have changed rules while ours were removed.
var errLeft = errors.New("some of wslmirror's rules are left, because another program is changing the same tables")

// leave removes what would outlive the process, and the table, step by step, and
// looks whether it is gone: no event will tell. It reports whether it has shut
// bridges.
func (s *system) leave(next func(Observed) Desired) (shut bool, err error) {
	for range rounds {
		obs, err := s.observe(true)
		if err != nil {
			return shut, err
		}
		want := next(obs)
		if !obs.Ours && (obs.Table.Owner != 0 || want.isNothing(obs)) {
			return shut, nil
		}
		shut = shut || len(want.Shut) > 0
		if err := s.apply(obs, want); err != nil {
			return shut, err
		}
	}
	return shut, errLeft
}

// insist calls do until it succeeds, for as long as again says so of its error,
// or for about a second. It is for the end, after which nobody tries again.
func insist(do func() error, again func(error) bool) error {
	err := do()
	for pause := firstBackOff; err != nil && again(err) && pause < time.Second; pause *= 2 {
		time.Sleep(pause)
		err = do()
	}
	return err
}

// retry is isTransient for insist, and says once that it does.
func (s *system) retry(what string) func(error) bool {
	said := false
	return func(err error) bool {
		again := isTransient(err)
		if again && !said {
			s.log.WithError(err).Warn(what)
			said = true
		}
		return again
	}
}

// isTransient reports whether an error is of the moment: no memory, say. Others stay
// as they are: the kernel has no such thing, or we have no right.
func isTransient(err error) bool {
	for _, transient := range []error{errLeft, nft.ErrTimeout, nlconn.ErrSilent, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EBUSY, unix.EIO, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, transient) {
			return true
		}
	}
	return false
}

// Cleanup removes what a daemon that crashed has left behind: all that outlives
// its netlink socket. Where another daemon serves by now, that is the other's,
// and stays.
func Cleanup() error {
	log := logrus.New()
	log.SetLevel(logrus.ErrorLevel)
	s := newSystem("", Policy{Direct: true}, log, func() {})
	shut := false
	err := insist(func() error {
		did, err := s.leave(teardown)
		shut = shut || did
		return err
	}, isTransient)
	return errors.Join(err, s.end(shut))
}
