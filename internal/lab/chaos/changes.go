package chaos

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// changes are the times at which the kernel told of a change in WSL: they say
// to the microsecond when something broke and when it was healed, whoever looks
// when.
type changes struct {
	sockets []*nl.NetlinkSocket

	mu sync.Mutex
	// first is the first change since begin was called, and healed the last one
	// of a ruleset or of ip rules, which are all that wslmirror changes and of
	// which there are events.
	first, healed time.Time
	wait          chan struct{} // closed at the next change
}

func (w *world) watch() (*changes, error) {
	c := &changes{wait: make(chan struct{})}
	for _, s := range []struct {
		protocol int
		groups   []uint
		heals    bool
	}{
		{unix.NETLINK_ROUTE, []uint{unix.RTNLGRP_LINK}, false},
		{unix.NETLINK_ROUTE, []uint{unix.RTNLGRP_IPV4_RULE}, true},
		{unix.NETLINK_NETFILTER, []uint{unix.NFNLGRP_NFTABLES}, true},
	} {
		sock, err := nl.SubscribeAt(netns.NsHandle(w.bench.WSL.NetNS()), netns.None(), s.protocol, s.groups...)
		if err != nil {
			c.close()
			return nil, err
		}
		c.sockets = append(c.sockets, sock)
		go c.follow(sock, s.heals)
	}
	return c, nil
}

func (c *changes) follow(sock *nl.NetlinkSocket, heals bool) {
	for {
		_, _, err := sock.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return // closed
		}
		c.mu.Lock()
		now := time.Now()
		if c.first.IsZero() {
			c.first = now
		}
		if heals {
			c.healed = now
		}
		close(c.wait)
		c.wait = make(chan struct{})
		c.mu.Unlock()
	}
}

// begin is called before a fault.
func (c *changes) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.first, c.healed = time.Time{}, time.Time{}
}

// took is the time from the fault to the last change. Of what has an event of
// its own it counts from there, and else from when it began.
func (c *changes) took(began time.Time, event bool) (d time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if event {
		began = c.first
	}
	return c.healed.Sub(began), !c.healed.IsZero()
}

// next is closed at the next change.
func (c *changes) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wait
}

func (c *changes) close() {
	for _, s := range c.sockets {
		s.Close()
	}
}

// Times are how long it took to heal, by fault.
type Times map[string][]time.Duration

func (t Times) add(fault string, d time.Duration) { t[fault] = append(t[fault], d) }

// All are those of every fault, but for what holders do after one.
func (t Times) All() (all []time.Duration) {
	for fault, d := range t {
		if fault != untilHeld {
			all = append(all, d...)
		}
	}
	return all
}

// Quantile is the value below which the share q of all is.
func Quantile(d []time.Duration, q float64) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[min(int(q*float64(len(d))), len(d)-1)]
}
