package packaging

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// byRules are rules as CNI's portmap writes them. They publish two ports that no socket
// holds.
const byRules = `table ip hold {
	chain CNI-HOSTPORT-DNAT { tcp dport { 90, 8090 } dnat to 172.17.0.2:80; }
	chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump CNI-HOSTPORT-DNAT; }
	chain output { type nat hook output priority -100; fib daddr type local jump CNI-HOSTPORT-DNAT; }
}`

// awaitHeld waits until a user sees that the holder of s holds exactly these ports.
func awaitHeld(t *testing.T, s service, when string, ports ...string) {
	t.Helper()
	labtest.Eventually(t, when+", "+s.Name+" holds "+strings.Join(ports, " and "), func() bool {
		out, _ := s.RunAs("user", "cat", "/run/wslmirror-hold/hold.json")
		var now status.Hold
		return json.Unmarshal([]byte(out), &now) == nil && now.Held != nil && slices.Equal(now.Held, append([]string{}, ports...))
	})
}

// heldSockets returns the inodes of the sockets that hold the ports of byRules. Only a
// holder has any.
func heldSockets(s service) string {
	s.tb.Helper()
	out := s.run("ss", "--no-header", "--tcp", "--numeric", "--all", "--extended", "( sport = :90 or sport = :8090 ) and src [::1]")
	var inodes []string
	for _, m := range regexp.MustCompile(`ino:([0-9]+)`).FindAllStringSubmatch(out, -1) {
		inodes = append(inodes, m[1])
	}
	slices.Sort(inodes)
	return strings.Join(inodes, " ")
}

// keepsHolding publishes ports that a holder holds while something happens, after which it
// has the same sockets.
func keepsHolding(t *testing.T, s service, happens func()) {
	s.run("nft", byRules)
	awaitHeld(t, s, "before", "90/tcp", "8090/tcp")
	before := heldSockets(s)
	happens()
	awaitHeld(t, s, "after", "90/tcp", "8090/tcp")
	if after := heldSockets(s); after != before || len(strings.Fields(after)) != 2 {
		t.Errorf("the sockets are %q, and were %q", after, before)
	}
	s.run("nft", "delete table ip hold")
	awaitHeld(t, s, "without the rules")
}

// The holder starts and stops with the daemon, and its sockets survive crashes and
// restarts.
func holds(t *testing.T, s service) {
	holder := func(property string) string {
		t.Helper()
		return s.run("systemctl", "show", "--property="+property, "--value", "wslmirror-hold")
	}
	labtest.Eventually(t, "beside the daemon the holder is active", func() bool { return holder("ActiveState") == "active" })
	s.run("nft", byRules)
	awaitHeld(t, s, "at first", "90/tcp", "8090/tcp")
	first := heldSockets(s)
	if len(strings.Fields(first)) != 2 {
		t.Fatalf("the sockets are %q", first)
	}

	proc := s.run("cat", "/proc/"+holder("MainPID")+"/status")
	for _, want := range []string{"CapPrm:\t0+400", "CapEff:\t0+400", "CapBnd:\t0+400", "NoNewPrivs:\t1", "Seccomp:\t2", "Uid:(\t[1-9][0-9]*){4}"} { // 1 << CAP_NET_BIND_SERVICE
		if !regexp.MustCompile("(?m)^" + want + "$").MatchString(proc) {
			t.Errorf("want %q in:\n%s", want, proc)
		}
	}
	m := regexp.MustCompile(`Overall exposure level for wslmirror-hold.service: ([0-9.]+)`).FindStringSubmatch(s.run("systemd-analyze", "security", "wslmirror-hold"))
	if m == nil {
		t.Error("systemd-analyze says nothing of the exposure")
	} else if level, err := strconv.ParseFloat(m[1], 64); err != nil || level > 1.3 {
		t.Errorf("exposure %s, want 1.3 or lower; %v", m[1], err)
	}

	for _, accident := range []struct {
		name string
		args []string
	}{
		{"kill -9 of the holder", []string{"systemctl", "kill", "--kill-whom=main", "--signal=KILL", "wslmirror-hold"}},
		{"restart of the holder", []string{"systemctl", "restart", "wslmirror-hold"}},
		{"kill -9 of the daemon", []string{"systemctl", "kill", "--kill-whom=main", "--signal=KILL", "wslmirror"}},
		{"restart of both", []string{"systemctl", "restart", "wslmirror"}},
	} {
		pids := func() string { return holder("MainPID") + " " + s.show("MainPID") }
		before := pids()
		s.run(accident.args...)
		labtest.Eventually(t, "after a "+accident.name+" both run", func() bool {
			return holder("ActiveState") == "active" && s.show("ActiveState") == "active" && pids() != before
		})
		s.await(status.Active, 0)
		awaitHeld(t, s, "after a "+accident.name, "90/tcp", "8090/tcp")
		if got := heldSockets(s); got != first {
			t.Errorf("after a %s the sockets are %q, no longer %q", accident.name, got, first)
		}
	}

	// Each of the two works without the other.
	s.run("systemctl", "stop", "wslmirror-hold")
	if got := heldSockets(s); got != "" || s.status().State != status.Active {
		t.Errorf("without the holder the sockets are %q and the daemon is %s", got, s.status().State)
	}
	s.run("systemctl", "start", "wslmirror-hold")
	awaitHeld(t, s, "started again", "90/tcp", "8090/tcp")
	s.run("systemctl", "stop", "wslmirror")
	if got := holder("ActiveState") + " " + heldSockets(s); got != "inactive " {
		t.Errorf("when the daemon was stopped the holder is %q", got)
	}
	s.run("systemctl", "start", "wslmirror-hold")
	if got := holder("ActiveState") + " " + heldSockets(s); got != "active " {
		t.Errorf("without a daemon the holder is %q", got)
	}
	s.run("systemctl", "start", "wslmirror")
	s.await(status.Active, 0)
	awaitHeld(t, s, "with the daemon again", "90/tcp", "8090/tcp")

	s.run("sed", "--in-place=.good", "s/^WSLMIRROR_HOLD=.*/WSLMIRROR_HOLD=false/", "/etc/default/wslmirror")
	s.run("systemctl", "restart", "wslmirror")
	labtest.Eventually(t, "the holder that is off ends", func() bool { return holder("ActiveState") == "inactive" })
	if got := holder("Result") + " " + heldSockets(s); got != "success " {
		t.Errorf("the holder that is off: %q", got)
	}
	s.run("mv", "/etc/default/wslmirror.good", "/etc/default/wslmirror")
	s.run("systemctl", "restart", "wslmirror")
	s.await(status.Active, 0)
	awaitHeld(t, s, "turned on again", "90/tcp", "8090/tcp")
	s.run("nft", "delete table ip hold")
	awaitHeld(t, s, "without the rules")
	if got := heldSockets(s); got != "" {
		t.Errorf("then there are still sockets %q", got)
	}
}
