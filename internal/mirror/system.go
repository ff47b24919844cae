package mirror

import (
	"errors"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
)

// sources is what wakes the daemon.
func sources() []netwatch.Source {
	return []netwatch.Source{
		netwatch.Netlink("links", unix.NETLINK_ROUTE, unix.RTNLGRP_LINK),
		netwatch.Netlink("addresses", unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR),
		netwatch.Netlink("ip rules", unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_RULE),
		netwatch.Netlink("sysctls", unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_NETCONF), // forwarding, but not route_localnet
		netwatch.Netlink("nftables", unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES),
		netwatch.ClockSet(),
	}
}

// system is the real kernel.
type system struct {
	iface string
	// forward has it read where the containers are and what is forwarded to
	// them, which takes time and only the path direct needs.
	forward bool
	log     logrus.FieldLogger
	wake    func()

	// Open sockets; nil until they are needed, and again after an error.
	links  *netwatch.LinkReader
	rules  *ipRules
	reader *nft.Reader
	holder *nft.Holder

	// The last view, and what it is of: the walk takes longer than the rest.
	viewed  *nft.Ruleset
	from    nft.Iface
	bridges []nft.Bridge
	view    nft.View

	// generation is that of the view, and one more for each change of ours since.
	generation uint32

	// refused says that the last change of the table failed.
	refused bool

	// installed is what the table was installed for last.
	installed nft.Spec
	// forget says that settle has to forget the flows that lead nowhere now, and
	// freed are the ports that the kernel has begun to serve since it last did.
	forget bool
	freed  nft.Ports

	// shut says that bridges were shut behind flows that go past a proxy.
	shut bool

	serves bool         // whether there should be a table of ours
	beacon *beacon      // lit while we own the table
	watch  *beaconWatch // on the beacon of the daemon that owns it
}

// beaconAgain is when to try again to light the beacon.
const beaconAgain = time.Second

// showBeacon lets the other daemons of this VM know whether we own the table.
func (s *system) showBeacon(lit bool) {
	switch {
	case lit && s.beacon == nil:
		var err error
		if s.beacon, err = lightBeacon(); err != nil {
			s.log.WithError(err).Debug("no beacon: another daemon would take over later than it could")
			// The last one's may be there for a moment yet.
			time.AfterFunc(beaconAgain, s.wake)
		}
	case !lit && s.beacon != nil:
		s.beacon.close()
		s.beacon = nil
	}
}

// watchBeacon watches for the end of the daemon that owns the table. It returns
// errLost if it cannot be watched now.
func (s *system) watchBeacon(on bool) error {
	if s.watch != nil && (!on || s.watch.over()) {
		s.watch.close()
		s.watch = nil
	}
	if on && s.watch == nil {
		var err error
		if s.watch, err = watchBeacon(s.wake); err != nil {
			s.log.WithError(err).Debug("no beacon of the daemon that serves")
			return errLost
		}
	}
	return nil
}

// release lets go of the table and then of the beacon, so that whoever sees the
// beacon end finds the table gone.
func (s *system) release() error {
	var err error
	if s.holder != nil {
		if s.serves {
			// Closing does, but of this there is an event, which wakes a daemon
			// that stands by sooner than the beacon does.
			_ = s.holder.Remove()
		}
		err = s.holder.Close()
		s.holder = nil
	}
	s.serves = false
	s.showBeacon(false)
	return err
}

// serving reports whether a table of ours is in the kernel.
func (s *system) serving() bool { return s.serves && s.holder != nil }

// undo takes away what is ours, which is nothing where another daemon serves.
//
// The table goes last, since it guards what is open. But if a daemon stands by,
// the table goes first, and that one takes over the rest as it is.
func (s *system) undo() error {
	s.watchBeacon(false)
	var err error
	if s.beacon != nil && s.beacon.watched() {
		err = s.handOver()
	}
	err = errors.Join(err, insist(s.removeOutside, func(err error) bool {
		s.log.WithError(err).Warn("could not undo, trying again")
		return true
	}))
	s.closeReaders()
	err = errors.Join(err, s.release())
	s.forgetDatagrams()
	return err
}

// handOver lets the daemon that stands by have the table, and waits until it does.
func (s *system) handOver() error {
	if err := insist(s.pauseDirect, s.tryAgain("could not shut the bridges, trying again")); err != nil {
		s.log.WithError(err).Warn("bridges stay open without a table: busy connections of Linux may be reset")
	}
	err := s.release()
	for deadline := time.Now().Add(takeOver); time.Now().Before(deadline); time.Sleep(takeOver / 100) {
		if obs, err := s.observe(true); err == nil && obs.Kernel.Owner != 0 {
			s.shut = false // and open again
			break
		}
	}
	return err
}

// pauseDirect shuts the bridges for the moment in which there is no table. What a
// container sends to a client in Linux would go by way of Windows then, and come
// back as a reset; to a bridge that is shut it is lost, and TCP sends it again.
func (s *system) pauseDirect() error {
	obs, err := s.observe(true)
	if err != nil || !obs.Ours {
		return err
	}
	if err := s.shutMap(obs); err != nil {
		return err
	}
	want := Desired{Returns: true, Shut: nothing(obs).Shut}
	s.shut = len(want.Shut) > 0
	return s.applyOutside(obs, want)
}

// takeOver is how long a daemon that stands by may take to own the table. It
// does so within milliseconds.
const takeOver = time.Second

// errLeft says that others have changed rules while ours were taken away.
var errLeft = errors.New("rules of ours are left, because others change theirs at this moment")

// removeOutside takes away what would outlive the process, and looks whether it
// is gone: no event will tell.
func (s *system) removeOutside() error {
	for range 2 {
		obs, err := s.observe(true)
		if err != nil || obs.Kernel.Owner != 0 && !obs.Ours || !left(obs) {
			return err
		}
		if err := s.shutMap(obs); err != nil {
			return err
		}
		want := nothing(obs)
		s.shut = s.shut || len(want.Shut) > 0
		if err := s.applyOutside(obs, want); err != nil {
			return err
		}
	}
	return errLeft
}

// shutMap has no new flow go past a proxy to a bridge that is about to be shut,
// while the table still guards it. A flow that began then could go nowhere, and
// its first packet would be sent again into the same entry of conntrack.
func (s *system) shutMap(obs Observed) error {
	if !obs.Ours || len(s.installed.Direct) == 0 {
		return nil
	}
	spec := s.installed
	spec.Direct = nft.Targets{}
	return s.install(obs, spec)
}

// forgetDatagrams frees the clients of UDP that went past a proxy, when that has
// come to an end: for as long as one sends from its port, its flow does not end
// by itself. Connections of TCP wait for the next daemon.
func (s *system) forgetDatagrams() {
	if !s.shut {
		return
	}
	if _, err := nft.ForgetDatagrams(nft.Spec{Kernel: s.view.Kernel}); err != nil && s.log != nil {
		s.log.WithError(err).Warn("UDP clients that sent past a proxy keep that way until they pause")
	}
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

// tryAgain is mayPass for insist, and says once that it does.
func (s *system) tryAgain(what string) func(error) bool {
	said := false
	return func(err error) bool {
		again := mayPass(err)
		if again && !said {
			s.log.WithError(err).Warn(what)
			said = true
		}
		return again
	}
}

// mayPass reports whether an error is of the moment: no memory, say. Others stay
// as they are: the kernel has no such thing, or we have no right.
func mayPass(err error) bool {
	for _, passing := range []error{errLeft, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EBUSY, unix.EIO, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}
