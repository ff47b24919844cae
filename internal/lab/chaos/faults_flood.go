package chaos

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var floodFaults = []fault{
	{"a flood of link events", 1, always, func(w *world) error { return w.flood(1000) }, floods},
	{"a flood of ruleset events", 1, always, func(w *world) error { return w.floodRuleset(30) }, others | floods},
	{"a flood while it is stopped", 1, func(w *world) bool { return w.canEnd() && w.serving() && canPublish(w.docker) }, (*world).floodStopped, others | floods | settled},
}

// nudge is an event that means nothing: there are changes of which the kernel
// tells nobody, and the daemon's own resync is too seldom to wait for.
func (w *world) nudge() error { return w.flood(1) }

// flood makes 2n events of an address that comes and goes.
func (w *world) flood(n int) error {
	h := w.bench.WSL.Net
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(198, 51, 100, 1), Mask: net.CIDRMask(32, 32)}}
	for range n {
		if err := h.AddrAdd(lo, addr); err != nil {
			return err
		}
		if err := h.AddrDel(lo, addr); err != nil {
			return err
		}
	}
	return nil
}

// floodLinks makes 2n events of a link.
func (w *world) floodLinks(n int) error {
	h := w.bench.WSL.Net
	link, err := h.LinkByName(canaryLink)
	if err != nil {
		return err
	}
	for range n {
		for _, mtu := range []int{1400, 1500} {
			if err := h.LinkSetMTU(link, mtu); err != nil {
				return err
			}
		}
	}
	return nil
}

// floodRules makes 2n events of an ip rule that comes and goes.
func (w *world) floodRules(n int) error {
	r := netlink.NewRule()
	r.Priority, r.Table, r.Protocol = 30_000, 200, unix.RTPROT_STATIC
	for range n {
		if err := w.bench.WSL.Net.RuleAdd(r); err != nil {
			return err
		}
		if err := w.bench.WSL.Net.RuleDel(r); err != nil {
			return err
		}
	}
	return nil
}

// floodSysctls makes 2n events of a sysctl that means nothing to wslmirror.
func (w *world) floodSysctls(n int) error {
	for range n {
		for _, on := range []bool{true, false} {
			if err := w.sysctl(canaryLink, "proxy_arp", on); err != nil {
				return err
			}
		}
	}
	return nil
}

// floodRuleset makes 2n generations of the ruleset.
func (w *world) floodRuleset(n int) (err error) {
	c, err := w.bench.WSL.NFT(nftables.AsLasting())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.CloseLasting()) }()
	return generations(c, n)
}

// generations makes 2n of them: a table with a chain that comes and goes, of which
// there are six events.
func generations(c *nftables.Conn, n int) error {
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "flood"}
	for range n {
		c.AddTable(table)
		c.AddChain(&nftables.Chain{Table: table, Name: "c"})
		if err := c.Flush(); err != nil {
			return err
		}
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// mostRounds is after how many rounds of a flood each socket has overflowed, many
// times over.
const mostRounds = 100

// floodStopped floods who serves with all that it subscribes to while it cannot
// read, until each of its sockets has lost events. Of the real change after that
// it is told nothing.
func (w *world) floodStopped() error {
	d, err := w.owner()
	if err == nil && d == nil {
		err = errors.New("nobody serves")
	}
	if err != nil {
		return err
	}
	if err := d.proc.Process.Signal(unix.SIGSTOP); err != nil {
		return err
	}
	return errors.Join(w.overrun(d), d.proc.Process.Signal(unix.SIGCONT))
}

// overrun floods a daemon that is stopped, and publishes a port.
func (w *world) overrun(d *daemon) error {
	before, err := w.subscriptions(d)
	if err != nil {
		return err
	}
	for round := 0; ; round++ {
		if err := errors.Join(w.floodLinks(50), w.flood(50), w.floodRules(50), w.floodSysctls(50), w.floodRuleset(20)); err != nil {
			return err
		}
		now, err := w.subscriptions(d)
		if err != nil {
			return err
		}
		calm := slices.DeleteFunc(slices.Clone(now), func(s netlinkSocket) bool {
			return slices.ContainsFunc(before, func(b netlinkSocket) bool { return b.inode == s.inode && b.drops < s.drops })
		})
		switch {
		case len(calm) == 0 && len(now) > 0:
			return publishOne(func(w *world) *engine { return w.docker })(w)
		case round >= mostRounds:
			return fmt.Errorf("a flood overflows not all of its sockets: %+v before, %+v after", before, now)
		}
	}
}
