package lab_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// machine is what a bench could leave in the network of the machine.
func machine(t *testing.T) []string {
	t.Helper()
	var state []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		state = append(state, fmt.Sprint("link ", l.Attrs().Index, l.Attrs().Name, l.Attrs().Flags))
	}
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		state = append(state, fmt.Sprint("rule ", r))
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, new(netlink.Route), netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		state = append(state, fmt.Sprint("route ", r))
	}
	chains, err := new(nftables.Conn).ListChains()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chains {
		rules, err := new(nftables.Conn).GetRules(c.Table, c)
		if err != nil {
			t.Fatal(err)
		}
		state = append(state, fmt.Sprint("chain ", c.Table.Family, c.Table.Name, c.Name, len(rules)))
	}
	return append(state, readFile(t, "/proc/sys/net/ipv4/ip_forward"), readFile(t, "/proc/sys/net/ipv4/ip_local_port_range"))
}

func TestTheMachineIsNotTouched(t *testing.T) {
	labtest.NeedRoot(t)
	before := machine(t)
	b := labtest.New(t, lab.Options{})
	startStandIn(t, b)
	if during := machine(t); !slices.Equal(before, during) {
		t.Errorf("before:\n%q\nwith a bench:\n%q", before, during)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if after := machine(t); !slices.Equal(before, after) {
		t.Errorf("before:\n%q\nafter:\n%q", before, after)
	}
}

// tie ties a link of h to a network namespace: the kernel removes the link when
// that namespace ends.
func tie(t *testing.T, h *lab.Host, name string, ns int) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := h.Net.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(ns)}); err != nil {
		t.Fatal(err)
	}
}

// waitUntied waits until the namespaces have ended. The kernel does that in the
// background.
func waitUntied(t *testing.T, h *lab.Host, names ...string) {
	t.Helper()
	for _, name := range names {
		labtest.Eventually(t, "the network namespace of "+name+" ends", func() bool {
			_, err := h.Net.LinkByName(name)
			if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
				t.Fatal(err)
			}
			return err != nil
		})
	}
}

func TestCloseEndsTheNamespaces(t *testing.T) {
	witness := labtest.New(t, lab.Options{}).WSL
	b := labtest.New(t, lab.Options{})
	s := startStandIn(t, b)
	p, err := b.Windows.Start(exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, h := range []*lab.Host{b.WSL, b.Windows, b.LAN, s.Container} {
		names = append(names, h.Name)
		tie(t, witness, h.Name, h.NetNS())
	}
	for _, name := range names {
		if _, err := witness.Net.LinkByName(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	waitUntied(t, witness, names...)
	select {
	case <-p.Done():
	default:
		t.Error("a program still runs")
	}
}

// After SIGKILL of who holds a bench nothing of it is left.
func TestSIGKILLEndsTheNamespaces(t *testing.T) {
	witness := labtest.New(t, lab.Options{}).WSL
	if isVictim() {
		b := labtest.New(t, lab.Options{})
		s := startStandIn(t, b)
		if _, err := b.WSL.Start(exec.Command("sleep", "1000")); err != nil {
			t.Fatal(err)
		}
		fmt.Println(b.WSL.NetNS(), b.Windows.NetNS(), b.LAN.NetNS(), s.Container.NetNS())
		select {}
	}
	cmd, line := startVictim(t)
	var fds [4]int
	if _, err := fmt.Sscan(line, &fds[0], &fds[1], &fds[2], &fds[3]); err != nil {
		t.Fatal(err, line)
	}
	var names []string
	for i, fd := range fds {
		ns, err := os.Open(fmt.Sprintf("/proc/%d/fd/%d", cmd.Process.Pid, fd))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, fmt.Sprint("tie", i))
		tie(t, witness, names[i], int(ns.Fd()))
		ns.Close()
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	waitUntied(t, witness, names...)
}
