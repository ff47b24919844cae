package netwatch_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/netwatch"
)

func TestRead(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	loopback0 := mustLink(t, b, "loopback0")
	if err := b.WSL.Net.LinkAddAltName(loopback0, "windows"); err != nil {
		t.Fatal(err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := b.WSL.Net.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	var reader *netwatch.LinkReader
	err := b.WSL.Do(func() (err error) {
		reader, err = netwatch.OpenLinks()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	read := func(want netwatch.Link) {
		t.Helper()
		links, err := reader.Read()
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
	read(netwatch.Link{Name: "windows"}) // only another name of loopback0
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

// A sysctl by its number, without /proc/sys, and the addresses.
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
	var reader *netwatch.LinkReader
	err := b.WSL.Do(func() (err error) {
		reader, err = netwatch.OpenLinks()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for _, on := range []bool{true, true, false} {
		if err := reader.SetRouteLocalnet(bridge.Index, on); err != nil {
			t.Fatal(err)
		}
		links, err := reader.Read()
		if err != nil {
			t.Fatal(err)
		}
		if got := netwatch.Find(links, "br0"); got.RouteLocalnet != on {
			t.Errorf("set to %v, read %+v", on, got)
		}
	}
	if err := reader.SetRouteLocalnet(4711, true); err != nil {
		t.Errorf("of a link that is gone: %v", err)
	}

	prefixes, err := reader.ReadPrefixes()
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

func wakes(w *netwatch.Watcher, within time.Duration) bool {
	select {
	case <-w.C():
		return true
	case <-time.After(within):
		return false
	}
}

func TestNetlink(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	w := watch(t, b.WSL, netwatch.Netlink("links", unix.NETLINK_ROUTE, unix.RTNLGRP_LINK))
	elsewhere := watch(t, b.LAN, netwatch.Netlink("links", unix.NETLINK_ROUTE, unix.RTNLGRP_LINK))
	if err := b.RemoveLoopback0(); err != nil {
		t.Fatal(err)
	}
	if !wakes(w, 5*time.Second) {
		t.Error("not woken by a link that goes")
	}
	if wakes(elsewhere, 50*time.Millisecond) {
		t.Error("woken by a link of another network namespace")
	}
}

// A flood of events that overruns the socket wakes, and does not end the
// subscription.
func TestNetlinkOverrun(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	var broken error
	w := netwatch.NewWatcher(netwatch.Netlink("links", unix.NETLINK_ROUTE, unix.RTNLGRP_LINK))
	w.Broken = func(_ string, err error) { broken = err }
	if err := b.WSL.Do(w.Subscribe); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	link, err := b.WSL.Net.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		// Each change is an event of about a kilobyte.
		if err := b.WSL.Net.LinkSetMTU(link, 1500+i%2); err != nil {
			t.Fatal(err)
		}
	}
	if !wakes(w, 5*time.Second) {
		t.Error("not woken by a flood")
	}
	for wakes(w, 50*time.Millisecond) {
	}
	if err := b.WSL.Do(w.Subscribe); err != nil || broken != nil {
		t.Errorf("after the flood: %v, %v", err, broken)
	}
	if err := b.WSL.Net.LinkDel(mustLink(t, b, "loopback0")); err != nil {
		t.Fatal(err)
	}
	if !wakes(w, 5*time.Second) {
		t.Error("not woken after the flood")
	}
}

func mustLink(t *testing.T, b *lab.Bench, name string) netlink.Link {
	t.Helper()
	l, err := b.WSL.Net.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// To set the clock to what it shows is enough for the event that a resumed
// system sees.
func TestClockSet(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	w := watch(t, b.WSL, netwatch.ClockSet())
	if wakes(w, 50*time.Millisecond) {
		t.Error("woken by nothing")
	}
	for range 2 { // the timer stays armed
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
			t.Fatal(err)
		}
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
			t.Fatal(err)
		}
		if !wakes(w, 5*time.Second) {
			t.Error("not woken by the clock")
		}
	}
}
