package netwatch_test

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/netwatch"
)

// open opens a Conn in h.
func open(t *testing.T, h *lab.Host) (c *netwatch.Conn) {
	t.Helper()
	err := h.Do(func() (err error) {
		c, err = netwatch.Open()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestLinks(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	loopback0 := mustLink(t, b, "loopback0")
	if err := b.WSL.Net.LinkAddAltName(loopback0, "windows"); err != nil {
		t.Fatal(err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := b.WSL.Net.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	conn := open(t, b.WSL)
	read := func(want netwatch.Link) {
		t.Helper()
		links, err := conn.Links()
		if err != nil {
			t.Fatal(err)
		}
		if got := netwatch.Find(links, want.Name); got != want {
			t.Errorf("read %+v, want %+v", got, want)
		}
	}
	index := loopback0.Attrs().Index
	read(netwatch.Link{Name: "lo", Index: 1, Up: true})
	read(netwatch.Link{Name: "loopback0", Index: index, Up: true, Kind: "veth", RouteLocalnet: true})
	read(netwatch.Link{Name: "missing"})
	read(netwatch.Link{Name: "windows"}) // only an alternative name of loopback0
	read(netwatch.Link{Name: "br0", Index: bridge.Index, Kind: "bridge"})
	if err := b.WSL.Sysctl("ipv4/conf/br0/route_localnet", "1"); err != nil {
		t.Fatal(err)
	}
	read(netwatch.Link{Name: "br0", Index: bridge.Index, Kind: "bridge", RouteLocalnet: true})

	if err := b.Loopback0Down(); err != nil {
		t.Fatal(err)
	}
	read(netwatch.Link{Name: "loopback0", Index: index, Kind: "veth", RouteLocalnet: true})
	if err := b.RemoveLoopback0(); err != nil {
		t.Fatal(err)
	}
	read(netwatch.Link{Name: "loopback0"})
}

// Setting a sysctl by number, without /proc/sys, and reading the addresses.
func TestSetRouteLocalnet(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := b.WSL.Net.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"172.17.0.1/16", "10.1.2.3/32"} {
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.WSL.Net.AddrAdd(bridge, a); err != nil {
			t.Fatal(err)
		}
	}
	conn := open(t, b.WSL)
	for _, on := range []bool{true, true, false} {
		if err := conn.SetRouteLocalnet(bridge.Index, on); err != nil {
			t.Fatal(err)
		}
		links, err := conn.Links()
		if err != nil {
			t.Fatal(err)
		}
		if got := netwatch.Find(links, "br0"); got.RouteLocalnet != on {
			t.Errorf("set to %v, read %+v", on, got)
		}
	}
	if err := conn.SetRouteLocalnet(4711, true); err != nil {
		t.Errorf("of a link that is gone: %v", err)
	}

	prefixes, err := conn.Prefixes()
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16"), netip.MustParsePrefix("10.1.2.3/32")}
	got := prefixes[bridge.Index]
	slices.SortFunc(got, func(a, b netip.Prefix) int { return a.Bits() - b.Bits() })
	if !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
}

// watch returns a Watcher that is subscribed in h.
func watch(t *testing.T, h *lab.Host, sources ...netwatch.Source) *netwatch.Watcher {
	t.Helper()
	w := netwatch.NewWatcher(sources...)
	if err := h.Do(w.Subscribe); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// briefly is how long a test waits for an event that must not come. The kernel puts an
// event into the socket before the change returns. On a machine too busy to deliver it
// in time, the test misses a bug but does not fail wrongly.
const briefly = 50 * time.Millisecond

func TestNetlink(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	w := watch(t, b.WSL, netwatch.Netlink("links", unix.NETLINK_ROUTE, unix.RTNLGRP_LINK))
	elsewhere := watch(t, b.LAN, netwatch.Netlink("links", unix.NETLINK_ROUTE, unix.RTNLGRP_LINK))
	if err := b.RemoveLoopback0(); err != nil {
		t.Fatal(err)
	}
	labtest.Receive(t, "woken by a link that goes", w.C())
	select {
	case <-elsewhere.C():
		t.Error("woken by a link of another network namespace")
	case <-time.After(briefly):
	}
}

// A socket that has lost events reports that at once and keeps working: the next event
// arrives as usual.
func TestNetlinkOverrun(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	// Only lo stays, which changes when the test changes it. The kernel tells that a link
	// has a carrier up to a second later, or more where it is busy (net/core/link_watch.c).
	for _, name := range []string{"eth0", "loopback0"} {
		if err := b.RemoveLink(name); err != nil {
			t.Fatal(err)
		}
	}
	var events netwatch.Subscription
	err := b.WSL.Do(func() (err error) {
		events, err = netwatch.Netlink("links", unix.NETLINK_ROUTE, unix.RTNLGRP_LINK).Open()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error)
	wait := func(when string) {
		t.Helper()
		go func() { waited <- events.Wait() }()
		if err := labtest.Receive(t, when+" something is reported", waited); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	for round := range 2 { // it can happen again
		flood(t, b)
		wait("after a flood")
		// Events left in the socket are older than the loss.
		for queued(t, b) > 0 {
			wait("what is left")
		}
		go func() { waited <- events.Wait() }()
		select {
		case err := <-waited:
			t.Errorf("reports something when nothing happens: %v", err)
			continue
		case <-time.After(briefly):
		}
		if err := b.WSL.Net.LinkSetMTU(mustLink(t, b, "lo"), 2000+round); err != nil {
			t.Fatal(err)
		}
		if err := labtest.Receive(t, "the next event is reported", waited); err != nil {
			t.Errorf("the next event: %v", err)
		}
		for queued(t, b) > 0 {
			wait("what is left")
		}
	}
	go func() { waited <- events.Wait() }()
	events.Close()
	if err := <-waited; err == nil {
		t.Error("a closed one reports an event")
	}
}

// flood changes a link until the socket subscribed to links loses events.
func flood(t *testing.T, b *lab.Bench) {
	t.Helper()
	link := mustLink(t, b, "lo")
	_, before := linkEvents(t, b)
	for i := range 10_000 {
		if err := b.WSL.Net.LinkSetMTU(link, 1500+i%2); err != nil {
			t.Fatal(err)
		}
		if i%50 != 0 {
			continue
		}
		if _, drops := linkEvents(t, b); drops > before {
			return
		}
	}
	t.Fatal("a flood does not overflow the socket: nothing is tested")
}

// queued returns how many bytes wait in the socket subscribed to links.
func queued(t *testing.T, b *lab.Bench) int {
	t.Helper()
	bytes, _ := linkEvents(t, b)
	return bytes
}

// linkEvents returns what /proc/net/netlink shows for the only socket in WSL that is
// subscribed to links.
func linkEvents(t *testing.T, b *lab.Bench) (bytes, drops int) {
	t.Helper()
	err := b.WSL.Do(func() error {
		table, err := os.ReadFile("/proc/thread-self/net/netlink")
		for line := range strings.Lines(string(table)) {
			// sk, protocol, port, groups, bytes received, bytes sent, dump, locks, drops, inode
			f := strings.Fields(line)
			if len(f) == 10 && f[1] == "0" && f[3] == "00000001" {
				bytes, _ = strconv.Atoi(f[4])
				drops, _ = strconv.Atoi(f[8])
				return err
			}
		}
		return errors.Join(err, errors.New("no socket is subscribed to links"))
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes, drops
}

func mustLink(t *testing.T, b *lab.Bench, name string) netlink.Link {
	t.Helper()
	l, err := b.WSL.Net.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
