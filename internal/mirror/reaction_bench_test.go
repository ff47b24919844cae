package mirror

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
)

// reactions is how often BenchmarkReaction measures. The framework cannot choose the
// number, because each measurement takes a second in which almost nothing happens.
const reactions = 25

// BenchmarkReaction measures the time from the event that loopback0 has appeared to the
// event that the rule is in the kernel. For comparison it also measures, in turn, a bare
// transaction that installs the same table.
func BenchmarkReaction(b *testing.B) {
	bench := labtest.New(b, lab.Options{NoLoopback0: true})
	states := startDaemon(b, bench.WSL, Policy{})
	links := stamps(b, bench.WSL, unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	rulesets := stamps(b, bench.WSL, unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	bare := bareInstall(b, bench.LAN)

	// Only add the link: configuring it takes the kernel's lock on all links again and
	// again, which is not measured here.
	plug := func() error {
		return bench.WSL.Net.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "loopback0"}, PeerName: "peer"})
	}

	var reaction, transaction []time.Duration
	await(b, states, status.Waiting)
	for range reactions {
		// No user plugs in ten links a second: wait until the loop is idle and its rate
		// limit has recovered.
		time.Sleep(time.Second)
		drain(links)
		drain(rulesets)
		if err := plug(); err != nil {
			b.Fatal(err)
		}
		reaction = append(reaction, (<-rulesets).Sub(<-links))
		await(b, states, status.Active)
		if err := bench.RemoveLoopback0(); err != nil {
			b.Fatal(err)
		}
		await(b, states, status.Waiting)
		time.Sleep(time.Second) // the bare transaction also starts after a rest
		transaction = append(transaction, bare())
	}
	r, t := report(b, "reaction", reaction), report(b, "bare", transaction)
	b.ReportMetric(float64(r)/float64(t), "ratio")
}

// BenchmarkReactionDirect measures the time from an engine's rule in the kernel to the
// element in our map that sends packets past the proxy, with different numbers of published
// ports.
func BenchmarkReactionDirect(b *testing.B) {
	for _, ports := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(ports), func(b *testing.B) {
			bench := labtest.New(b, lab.Options{})
			engine, err := bench.StartStandIn()
			if err != nil {
				b.Fatal(err)
			}
			var rules strings.Builder
			for i := range ports {
				fmt.Fprintf(&rules, "add rule ip nat DOCKER iifname != \"docker0\" tcp dport %d dnat to %s:80\n", 20000+2*i, engine.Addr)
			}
			if _, err := bench.WSL.Run("nft", rules.String()); err != nil {
				b.Fatal(err)
			}
			states := startDaemon(b, bench.WSL, Policy{Repair: true, Direct: true})
			direct := func(n int) func(status.Snapshot) bool {
				return func(s status.Snapshot) bool {
					return len(s.Ports) == n && !slices.ContainsFunc(s.Ports, func(p status.Port) bool { return p.Path != status.PathDirect })
				}
			}
			awaitSnapshot(b, states, "all ports to be direct", direct(ports))
			var reaction []time.Duration
			for i := range reactions {
				time.Sleep(time.Second)
				// The engine adds its rules last.
				if err := engine.Publish("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+2*i)); err != nil {
					b.Fatal(err)
				}
				written := time.Now()
				awaitSnapshot(b, states, "the port to be direct", direct(ports+1+i))
				reaction = append(reaction, time.Since(written))
			}
			report(b, "reaction", reaction)
		})
	}
}

func report(b *testing.B, name string, d []time.Duration) (median time.Duration) {
	slices.Sort(d)
	median = d[len(d)/2]
	b.ReportMetric(float64(median.Nanoseconds())/1000, name+"-median-µs")
	b.ReportMetric(float64(d[len(d)*99/100].Nanoseconds())/1000, name+"-p99-µs")
	b.ReportMetric(0, "ns/op") // the benchmark's own time is meaningless
	return median
}

// startDaemon runs a Daemon in h and returns what it publishes.
func startDaemon(tb testing.TB, h *lab.Host, policy Policy) <-chan status.Snapshot {
	states := make(chan status.Snapshot, 1000)
	log := logrus.New()
	log.SetOutput(io.Discard)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- h.Do(func() error {
			return New(Config{
				Interface: "loopback0", Policy: policy, Log: log,
				Publish: func(s status.Snapshot) error { states <- s; return nil },
			}).Run(ctx)
		})
	}()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("the daemon ended: %v", err)
		}
	})
	return states
}

func await(tb testing.TB, states <-chan status.Snapshot, want status.State) {
	tb.Helper()
	awaitSnapshot(tb, states, string(want), func(s status.Snapshot) bool { return s.State == want })
}

func awaitSnapshot(tb testing.TB, states <-chan status.Snapshot, what string, ok func(status.Snapshot) bool) {
	tb.Helper()
	timeout := time.After(labtest.Patience())
	for {
		select {
		case got := <-states:
			if ok(got) {
				return
			}
		case <-timeout:
			tb.Fatalf("the daemon never came to %s", what)
		}
	}
}

// stamps returns the times at which the events of a netlink group arrived in h.
func stamps(tb testing.TB, h *lab.Host, protocol int, group uint) <-chan time.Time {
	var sub netwatch.Subscription
	err := h.Do(func() (err error) {
		sub, err = netwatch.Netlink("", protocol, group).Open()
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { sub.Close() })
	times := make(chan time.Time, 1000)
	go func() {
		for sub.Wait() == nil {
			times <- time.Now()
		}
	}()
	return times
}

func drain(times <-chan time.Time) {
	for {
		select {
		case <-times:
		default:
			return
		}
	}
}

// bareInstall returns a function that installs the table in h and measures only the
// transaction.
func bareInstall(tb testing.TB, h *lab.Host) func() time.Duration {
	var owner *nft.TableOwner
	err := h.Do(func() (err error) {
		owner, err = nft.Open()
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { owner.Close() })
	return func() time.Duration {
		start := time.Now()
		err := owner.Install(nft.Spec{Index: 1, Repair: true}.Table(), nft.OurTable{})
		took := time.Since(start)
		if err == nil {
			err = owner.Remove()
		}
		if err != nil {
			tb.Fatal(err)
		}
		return took
	}
}
