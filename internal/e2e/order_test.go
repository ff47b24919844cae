package e2e

import (
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// emptyBatch is the message with which the daemon waits for changes in progress before it
// reads (nft/ruleset/read.go): NFNL_MSG_BATCH_END comes first.
const emptyBatch = " 0x11"

// Before each message that the daemon sends to the kernel, a bridge that it has opened is
// guarded by its table, and packets that go past a proxy can reach their bridge. Packets
// arrive between two steps too.
func TestOrderOfSteps(t *testing.T) {
	l := newLives(t, status.PathDirect)
	looks, opened, changeable := 0, 0, true
	// watch checks the kernel while the daemon is stopped in a call.
	watch := func(n int, call string) unix.Errno {
		if kindOf(call) != "sendto" && kindOf(call) != "sendmsg" {
			return 0
		}
		looks++
		open := routeLocalnet(t, l.bench.WSL, "docker0") == "1"
		table := ourTable.FindString(ruleset(t, l.bench.WSL))
		past := strings.Contains(table, "tcp . 8080 : ")
		if open {
			opened++
		}
		if open && !strings.Contains(table, "chain guard {") {
			t.Errorf("before call %d, %s, docker0 is open without a guard", n, call)
		}
		if past && !open && changeable {
			t.Errorf("before call %d, %s, packets go to docker0, which is shut", n, call)
		}
		return 0
	}
	l.leadWhile(watch, func(*daemon, *tap) {})
	if looks < 50 || opened < 10 {
		t.Errorf("in %d looks, docker0 was open in %d", looks, opened)
	}

	// A change that fails once is retried, and no bridge is shut.
	nft := func(commands string) {
		if _, err := l.bench.WSL.Run("nft", commands); err != nil {
			t.Error(err)
		}
	}
	const other = "table ip other { chain ports { tcp dport 9090 dnat to 172.17.0.2:80; }; " +
		"chain arriving { type nat hook prerouting priority dstnat; jump ports; }; " +
		"chain leaving { type nat hook output priority -100; ip daddr != 127.0.0.0/8 jump ports; }; }"
	l.leadWhile(nil, func(d *daemon, p *tap) {
		failed, shut := 0, 0
		p.setFault(func(n int, call string) unix.Errno {
			watch(n, call)
			if routeLocalnet(t, l.bench.WSL, "docker0") != "1" {
				shut++
			}
			if failed < 1 && strings.Contains(call, batch) && !strings.HasSuffix(call, emptyBatch) {
				failed++
				return unix.ENOBUFS
			}
			return 0
		})
		nft(other)
		d.await("9090", func(s status.Snapshot) bool { return strings.Contains(paths(s), "9090/tcp direct") })
		p.setFault(nil)
		nft("delete table ip other")
		if failed != 1 || shut > 0 {
			t.Errorf("after %d change that failed, docker0 was shut in %d looks", failed, shut)
		}
	})

	// A table that can no longer be changed stays as it is, and guards the open bridges.
	changeable = false
	l.leadWhile(nil, func(d *daemon, p *tap) {
		p.setFault(func(n int, call string) unix.Errno {
			watch(n, call)
			if strings.Contains(call, batch) && !strings.HasSuffix(call, emptyBatch) {
				return refused
			}
			return 0
		})
		nft(other)
		d.awaitState(status.Error)
		if routeLocalnet(t, l.bench.WSL, "docker0") != "1" || !hasTable(t, l.bench.WSL) {
			t.Error("what worked was removed because it could not be changed")
		}
		nft("delete table ip other")
		p.setFault(nil)
	})

	// If the table disappears, the daemon shuts the bridges that it guarded.
	l.leadWhile(nil, func(_ *daemon, p *tap) {
		var lost, shutting atomic.Bool
		p.setFault(func(n int, call string) unix.Errno {
			switch {
			case shutting.Load():
			case strings.Contains(call, batch) && !strings.HasSuffix(call, emptyBatch):
				lost.Store(true)
				return held // until the daemon has timed out and closed the socket
			case lost.Load() && call == "sendto 0x13" && routeLocalnet(t, l.bench.WSL, "docker0") == "1": // RTM_SETLINK
				shutting.Store(true)
			}
			return 0
		})
		nft(other)
		labtest.Eventually(t, "docker0 is being shut", shutting.Load)
		p.setFault(nil)
		nft("delete table ip other")
	})

	// A bridge that could not be shut keeps its guard, even after loopback0 has gone.
	l.leadWhile(nil, func(_ *daemon, p *tap) {
		var failed atomic.Bool
		p.setFault(func(n int, call string) unix.Errno {
			watch(n, call)
			if call == "sendto 0x13" && failed.CompareAndSwap(false, true) { // RTM_SETLINK
				return unix.ENOBUFS
			}
			return 0
		})
		if err := l.bench.RemoveLoopback0(); err != nil {
			t.Error(err)
		}
		labtest.Eventually(t, "docker0 is shut, at the second attempt, and the table has gone", func() bool {
			return failed.Load() && routeLocalnet(t, l.bench.WSL, "docker0") != "1" && !hasTable(t, l.bench.WSL)
		})
		p.setFault(nil)
		if err := l.bench.AddLoopback0(); err != nil {
			t.Error(err)
		}
	})
}
