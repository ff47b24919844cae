package mirror

import (
	"errors"
	"fmt"
	"os"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/nft"
)

func (s *system) apply(obs Observed, want Desired) error {
	// First on and last off: as long as packets go to a bridge, what comes back by
	// it for a client here must find its way. By way of Windows it would look like
	// a new flow that clashes with its own, and end in a reset.
	err := s.setReturns(obs, want, true)
	if want.Table != nil {
		if err := s.install(obs, *want.Table); err != nil {
			return s.giveUp(obs, want, err)
		}
	}
	s.refused = false
	s.serves = want.Table != nil
	s.showBeacon(s.serves)
	// The table is none the worse for what fails outside of it.
	err = errors.Join(err, s.applyOutside(obs, want))
	if want.Table == nil && obs.Ours && err == nil {
		// After the bridges are shut, because it guards them.
		if removeErr := s.holder.Remove(); removeErr != nil {
			err = errors.Join(removeErr, s.release())
		}
	}
	if err != nil {
		return err
	}
	return s.watchBeacon(want.State == status.Standby)
}

// giveUp is what becomes of a change of the table that has failed.
func (s *system) giveUp(obs Observed, want Desired, err error) error {
	switch {
	case errors.Is(err, nft.ErrOwned):
		s.serves = false
		s.showBeacon(false)
		return errLost
	case obs.Ours && !s.refused && !errors.Is(err, os.ErrClosed):
		// It may pass, and the table is as it was: a change is carried out whole or
		// not at all, unless its answer took so long that the socket was closed.
		s.refused = true
		return err
	}
	// Whatever became of the table, the kernel forgets it with its socket, and
	// without its guard no bridge may be open. The ip rule stays: to add and to
	// delete it again and again would be an event each time.
	shut := nothing(obs)
	shut.Returns = want.Returns
	return errors.Join(err, s.applyOutside(obs, shut), s.release())
}

// setReturns adds our ip rule where it should be, or deletes it where it should
// not.
func (s *system) setReturns(obs Observed, want Desired, on bool) error {
	if obs.Returns == on || want.Returns != on {
		return nil
	}
	return s.rules.set(returnRule(), on)
}

// applyOutside makes so what is outside of the table, and so outlives it.
func (s *system) applyOutside(obs Observed, want Desired) error {
	var errs []error
	do := func(err error) bool {
		errs = append(errs, err)
		return err == nil
	}
	// The mark is there for as long as the bridge is open, so that at no moment
	// it could be forgotten.
	for _, l := range want.Open {
		if do(s.rules.set(bridgeMark(l.Name), true)) {
			do(s.links.SetRouteLocalnet(l.Index, true))
		}
	}
	for _, l := range want.Shut {
		if do(s.links.SetRouteLocalnet(l.Index, false)) {
			do(s.rules.set(bridgeMark(l.Name), false))
		}
	}
	for _, name := range want.Unmark {
		do(s.rules.set(bridgeMark(name), false))
	}
	do(s.setReturns(obs, want, false))
	// That the rules have changed since they were read is an event.
	if err := nft.PlaceAccepts(s.generation, want.Add, want.Remove); !errors.Is(err, nft.ErrChanged) {
		do(err)
	}
	return errors.Join(errs...)
}

// install puts the table into the kernel if it is not there already.
func (s *system) install(obs Observed, spec nft.Spec) error {
	t := spec.Table()
	if obs.Ours && obs.Kernel.Table.Equal(t) {
		return nil
	}
	if err := s.holder.Install(t, obs.Kernel); err != nil {
		if spec.Repair && !obs.Kernel.Present && errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("%w: this kernel lacks nft_ct or nft_masq, without which only --repair=false works", err)
		}
		return err
	}
	s.generation++
	log := s.log.WithFields(logrus.Fields{"interface": obs.Link.Name, "index": obs.Link.Index})
	log.WithFields(logrus.Fields{"kernel": spec.Kernel.String(), "direct": len(spec.Direct), "guarded": spec.Guarded}).Debug("installed the table")
	if !obs.Ours || s.installed.Index != spec.Index {
		s.forget = true // what began before there was a table
	} else {
		// Ports that the kernel has just begun to serve were kept from it by our
		// rule until now.
		s.freed = s.freed.Union(spec.Kernel.Minus(s.installed.Kernel))
		s.forget = s.forget || spec.Diverts(s.installed)
	}
	s.installed = spec
	return nil
}

// settle is what is left to do when the rules are in the kernel. It comes after
// them, because a flow that is forgotten before could begin again too early; and
// after the world has been told, because it takes ten milliseconds and more: the
// kernel looks through the connections of all network namespaces.
//
// And it comes after the last of several steps: a daemon that takes over finds
// bridges that its predecessor has shut, so that its first table sends nothing
// past the proxies. The connections that go past them live, and need to wait for
// the second.
func (s *system) settle() {
	if s.forget {
		s.forgetFlows(s.installed, s.freed)
		s.forget, s.freed = false, nil
	}
}

func (s *system) forgetFlows(spec nft.Spec, freed nft.Ports) {
	var n uint
	err := insist(func() (err error) {
		n, err = nft.ForgetFlows(spec, freed)
		return err
	}, s.tryAgain("could not free flows from their old way, trying again"))
	if err != nil {
		// Without nf_conntrack_netlink: new flows work, old ones wait for their
		// timeout. No reason to take the table away.
		s.log.WithError(err).Warn("flows that began before now keep their old way until they time out")
	} else if n > 0 {
		s.log.WithField("flows", n).Info("freed flows from the way that their first packet took")
	}
}
