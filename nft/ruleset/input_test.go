package ruleset

import (
	"fmt"
	"slices"
	"testing"
)

// What is dropped, or may be, is told with its place, and what is of another hook or
// link is not.
func TestRefusals(t *testing.T) {
	h, index := host(t)
	for _, command := range []string{
		"table inet strict { chain input { type filter hook input priority 0; policy drop; ct state established accept; iif lo accept; tcp dport != 8080 accept; udp dport 1-65535 accept; }; }",
		"table ip mine { chain in { type filter hook input priority 1; tcp dport 9000 limit rate 1/second drop; iifname != lo tcp dport 9001 drop; iifname eth0 tcp dport 9002 drop; }; }",
		"table ip mine { chain pre { type filter hook prerouting priority raw; iifname != lo ip daddr 127.0.0.1 tcp dport 9003 drop; }; }",
		"table ip mine { chain through { type filter hook forward priority 0; policy drop; }; }",
	} {
		if _, err := h.Run("nft", command); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, refusal := range readRules(t, h).Refusals(Iface{Name: "loopback0", Index: index}) {
		got = append(got, fmt.Sprintf("%s %s %s: %s, sure %v", refusal.At.Family(), refusal.At.Table(), refusal.At.Chain(), refusal.Ports, refusal.Sure))
	}
	// Port 0 of UDP is none of those that are accepted.
	want := []string{
		"ip mine pre: 9003/tcp, sure true", "ip mine in: 9000/tcp, sure false", "ip mine in: 9001/tcp, sure true",
		"inet strict input: 8080/tcp 0/udp, sure true",
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("refused are %q, want %q", got, want)
	}
}
