package mirror

import (
	"errors"
	"io"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
)

// sources is what wakes the daemon.
func sources() []netwatch.Source {
	return []netwatch.Source{
		netwatch.Netlink("links", unix.NETLINK_ROUTE, unix.RTNLGRP_LINK),
		netwatch.Netlink("ip rules", unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_RULE),
		netwatch.Netlink("nftables", unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES),
		netwatch.ClockSet(),
	}
}

// system is the real kernel.
type system struct {
	iface string
	log   logrus.FieldLogger
	wake  func()

	// Open sockets; nil until they are needed, and again after an error.
	links  *netwatch.LinkReader
	rules  *ipRules
	reader *nft.Reader
	holder *nft.Holder

	// The last view, and what it is of: the walk takes longer than the rest.
	viewed *nft.Ruleset
	from   nft.Iface
	view   nft.View

	// served are the ports that the kernel served when the table was installed
	// last.
	served nft.Ports
	forget func() // what settle has to do; nil: nothing

	serves bool         // whether there should be a table of ours
	beacon io.Closer    // lit while we own the table
	watch  *beaconWatch // on the beacon of the daemon that owns it
}

func (s *system) observe(fresh bool) (Observed, error) {
	if fresh && s.reader != nil {
		s.reader.Forget()
	}
	o, err := s.read()
	if err != nil {
		s.closeReaders()
	}
	return o, err
}

func (s *system) read() (o Observed, err error) {
	if s.links == nil {
		if s.links, err = netwatch.OpenLinks(); err != nil {
			return o, err
		}
	}
	if s.rules == nil {
		if s.rules, err = openIPRules(); err != nil {
			return o, err
		}
	}
	if s.reader == nil {
		if s.reader, err = nft.OpenReader(); err != nil {
			return o, err
		}
	}
	if s.holder == nil {
		if s.holder, err = nft.Open(); err != nil {
			return o, err
		}
	}
	if o.Links, err = s.links.Read(); err != nil {
		return o, err
	}
	o.Link = netwatch.Find(o.Links, s.iface)
	var ruleset *nft.Ruleset
	if o.Kernel, ruleset, err = s.reader.Read(); err != nil {
		return o, err
	}
	o.Ours = o.Kernel.Present && o.Kernel.Owner == s.holder.PortID()
	if iface := (nft.Iface{Name: o.Link.Name, Index: o.Link.Index}); ruleset != s.viewed || iface != s.from {
		s.viewed, s.from, s.view = ruleset, iface, ruleset.View(iface)
	}
	o.View = s.view
	o.Returns, err = s.rules.hasReturn()
	return o, err
}

func (s *system) closeReaders() {
	if s.links != nil {
		s.links.Close()
		s.links = nil
	}
	if s.rules != nil {
		s.rules.close()
		s.rules = nil
	}
	if s.reader != nil {
		s.reader.Close()
		s.reader = nil
	}
}

func (s *system) apply(obs Observed, want Desired) error {
	var err error
	switch {
	case want.Table != nil:
		err = s.install(obs, *want.Table)
	case obs.Ours:
		err = s.holder.Remove()
	}
	if errors.Is(err, nft.ErrOwned) {
		s.serves = false
		s.showBeacon(false)
		return errLost
	}
	if err != nil {
		// Whatever became of the table, the kernel forgets it with its socket.
		return errors.Join(err, s.release())
	}
	s.serves = want.Table != nil
	s.showBeacon(s.serves)
	// The table is none the worse for what fails here.
	if obs.Returns != want.Returns {
		err = s.rules.setReturn(want.Returns)
	}
	// ENOENT: a chain has changed since it was read, which is an event.
	if placeErr := nft.PlaceAccepts(want.Add, want.Remove); !errors.Is(placeErr, unix.ENOENT) {
		err = errors.Join(err, placeErr)
	}
	if err != nil {
		return err
	}
	return s.watchBeacon(want.State == status.Standby)
}

// install puts the table into the kernel if it is not there already.
func (s *system) install(obs Observed, spec nft.Spec) error {
	t := spec.Table()
	if obs.Ours && obs.Kernel.Table.Equal(t) {
		return nil
	}
	if err := s.holder.Install(t, obs.Kernel); err != nil {
		return err
	}
	log := s.log.WithFields(logrus.Fields{"interface": obs.Link.Name, "index": obs.Link.Index})
	log.WithFields(logrus.Fields{"kernel": spec.Kernel.String(), "guarded": spec.Guarded}).Debug("installed the table")
	// Ports that the kernel has just begun to serve were kept from it by our rule
	// until now.
	var freed nft.Ports
	if obs.Ours {
		freed = spec.Kernel.Minus(s.served)
	}
	s.served = spec.Kernel
	s.forget = func() { s.forgetFlows(spec.Kernel, freed) }
	return nil
}

// settle is what is left to do when the rules are in the kernel. It comes after
// them, because a flow that is forgotten before could begin again too early; and
// after the world has been told, because it takes ten milliseconds and more: the
// kernel looks through the connections of all network namespaces.
func (s *system) settle() {
	if s.forget != nil {
		s.forget()
		s.forget = nil
	}
}

func (s *system) forgetFlows(kernel, freed nft.Ports) {
	n, err := nft.ForgetFlows(nft.AllPorts.Minus(kernel), freed)
	if err != nil {
		// Without nf_conntrack_netlink: new flows work, old ones wait for their
		// timeout. No reason to take the table away.
		s.log.WithError(err).Warn("flows that began before now keep their old way until they time out")
	} else if n > 0 {
		s.log.WithField("flows", n).Info("freed flows from the way that their first packet took")
	}
}

// showBeacon lets the other daemons of this VM know whether we own the table.
func (s *system) showBeacon(lit bool) {
	switch {
	case lit && s.beacon == nil:
		var err error
		if s.beacon, err = lightBeacon(); err != nil {
			s.log.WithError(err).Debug("no beacon: another daemon would take over later than it could")
		}
	case !lit && s.beacon != nil:
		s.beacon.Close()
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
			// Closing would do, but of this there is an event, which wakes a
			// daemon that stands by sooner than the beacon does.
			err = s.holder.Remove()
		}
		err = errors.Join(err, s.holder.Close())
		s.holder = nil
	}
	s.showBeacon(false)
	return err
}

// serving reports whether a table of ours is in the kernel.
func (s *system) serving() bool { return s.serves && s.holder != nil }

// undo takes away what is ours, which is nothing where another daemon serves.
func (s *system) undo() error {
	var err error
	if s.serves {
		err = removeTraces()
	} else {
		err = Cleanup() // of what failed earlier, if nobody else serves
	}
	s.watchBeacon(false)
	s.closeReaders()
	return errors.Join(err, s.release())
}
