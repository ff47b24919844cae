package ruleset

import (
	"fmt"
	"slices"
	"testing"
)

// What is dropped for certain is told, with its place, and what may be dropped, or
// is of another hook or link, is not.
func TestRefusals(t *testing.T) {
	h, index := host(t)
	for _, command := range []string{
		"table inet strict { chain input { type filter hook input priority 0; policy drop; ct state established accept; iif lo accept; tcp dport != 8080 accept; udp dport 1-65535 accept; }; }",
		"table ip mine { chain in { type filter hook input priority 1; tcp dport 9000 limit rate 1/second drop; iifname != lo tcp dport 9001 drop; iifname eth0 tcp dport 9002 drop; }; }",
		"table ip mine { chain through { type filter hook forward priority 0; policy drop; }; }",
	} {
		if _, err := h.Run("nft", command); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, refusal := range readRules(t, h).Refusals(Iface{Name: "loopback0", Index: index}) {
		got = append(got, fmt.Sprintf("%s %s %s: %s", refusal.At.Family(), refusal.At.Table(), refusal.At.Chain(), refusal.Ports))
	}
	// Port 0 of UDP is none of those that are accepted.
	want := []string{"ip mine in: 9001/tcp", "inet strict input: 8080/tcp 0/udp"}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("refused are %q, want %q", got, want)
	}
}
