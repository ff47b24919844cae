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
	// unevicted is the last error of eviction that was logged.
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

// serving returns the ports of 127.0.0.1 on which a socket listens. Without them, a server
// whose backlog is full at this moment could look like a closed port.
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

// apply makes the changes that lead from obs to want.
func (s *system) apply(obs Observed, want Desired) error {
	// The reply rule goes in first and out last: while packets are sent to a bridge, a
	// reply that arrives on it for a client in Linux must be delivered here. In Windows the
	// reply would look like a new flow that clashes with the client's own, and the
	// connection would be reset.
	errs := []error{s.setReplyRule(obs, want, true)}
	do := func(err error) bool {
		errs = append(errs, err)
		return err == nil
	}
	// Change the rules in others' tables before ours, because installing our table changes
	// the generation. ErrChanged needs no retry here: the change of the others is an event.
	if err := (nft.ForeignChange{Add: want.Add, Remove: want.Remove}).Apply(obs.Generation); !errors.Is(err, nft.ErrChanged) {
		do(err)
	}
	do(s.restore(obs, want.Restore))
	// Shut a bridge when nothing is sent to it any more, or at once if nothing guards it.
	if !obs.Ours {
		do(s.shut(want.Shut))
	}
	if want.Table != nil && !do(s.install(obs, *want.Table)) {
		// If the kernel refused a change, the old table stays. If there was no table, or it
		// disappeared with its socket, nothing guards the bridges.
		if !obs.Ours || s.lease.owner == nil {
			do(s.shut(want.Exposed))
		}
		return errors.Join(errs...)
	}
	if obs.Ours {
		do(s.shut(want.Shut))
	}
	// Add the marker before opening the bridge, and remove it after shutting, so that an
	// open bridge always has its marker.
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
		return s.lease.drop() // last, because it guards the bridges
	}
	return nil
}

// shut clears route_localnet of the bridges and removes their markers.
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

// setReplyRule adds our ip rule if on is set, and deletes it if not, where want says so.
func (s *system) setReplyRule(obs Observed, want Desired, on bool) error {
	switch {
	case obs.ReplyRule == on || want.ReplyRule != on:
		return nil
	case on:
		return s.net.AddRule(ReplyRule)
	}
	return s.net.DeleteRule(ReplyRule)
}

// install puts the table into the kernel, unless it is there already.
func (s *system) install(obs Observed, t nft.Table) error {
	if obs.Ours && obs.Table.Table.Equal(t) {
		return nil
	}
	if !obs.Ours {
		// The beacon comes first: the table is the event at which other daemons look for it.
		// pass corrects it if the table cannot be installed.
		_ = s.show(true, 0) // show logs its own error
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

// show tells the other daemons of this VM whether this one serves, or wakes the loop when
// the daemon that owns the table ends.
func (s *system) show(serves bool, owner uint32) error {
	err := errors.Join(s.lease.show(serves), s.lease.follow(owner))
	if err != nil {
		log := s.log.WithError(err)
		const says = "no beacon: a standby daemon would take over late"
		if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.ECONNREFUSED) {
			log.Debug(says) // another process uses the name, or none does yet
		} else {
			log.Warn(says)
		}
	}
	return err
}

// evict resets the flows that match.
func (s *system) evict(match func(conntrack.Flow) bool) error {
	var n int
	err := insist(func() (err error) {
		n, err = conntrack.Evict(match)
		return err
	}, s.retry("could not reset NAT for earlier connections, retrying"))
	switch {
	case err != nil:
		// For example, nf_conntrack_netlink is missing: new flows work, and old ones time
		// out. That is no reason to remove the table.
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

// undo removes everything of ours. Where another daemon serves, nothing is ours.
//
// The table goes last, since it guards the open bridges. But if another daemon is on
// standby, the table goes first, and that daemon takes over the rest unchanged.
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
				shut = false // the other daemon keeps them open
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

// end closes everything. shut says that bridges were shut while flows went past a proxy.
func (s *system) end(shut bool) error {
	if shut {
		_ = s.evict(datagrams(s.last.analysis.EngineServed, s.last.analysis.Published)) // evict logs its own error
	}
	s.observer.close()
	return s.lease.release()
}

// takeOver is how long a daemon on standby may take to own the table. It needs only
// milliseconds.
const takeOver = time.Second

// errLeft says that others changed rules while ours were being removed.
var errLeft = errors.New("some of wslmirror's rules are left, because another program is changing the same tables")

// leave removes, step by step, the table and everything that would outlive the process. It
// then checks that all is gone, since no further event will start another pass. It reports
// whether it has shut bridges.
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

// insist calls do until it succeeds, as long as again accepts its error, for about a second
// at most. It is for shutting down, when no later pass can retry.
func insist(do func() error, again func(error) bool) error {
	err := do()
	for pause := firstBackOff; err != nil && again(err) && pause < time.Second; pause *= 2 {
		time.Sleep(pause)
		err = do()
	}
	return err
}

// retry returns isTransient for insist, and logs the first retry.
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

// isTransient reports whether an error may pass, such as a lack of memory. Others are
// permanent: the kernel lacks the feature, or we lack the permission.
func isTransient(err error) bool {
	for _, transient := range []error{errLeft, nft.ErrTimeout, nlconn.ErrSilent, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EBUSY, unix.EIO, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, transient) {
			return true
		}
	}
	return false
}

// Cleanup removes what a crashed daemon left behind: everything that outlives its netlink
// socket. If another daemon serves by now, that belongs to the other daemon and stays.
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
