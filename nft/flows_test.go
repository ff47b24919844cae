package nft

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDiverts(t *testing.T) {
	one, two := Port{unix.IPPROTO_TCP, 1}, Port{unix.IPPROTO_TCP, 2}
	a, b := netip.MustParseAddrPort("172.17.0.2:80"), netip.MustParseAddrPort("172.17.0.3:80")
	kernel := Ports{{one.key(), one.key()}}
	tests := map[string]struct {
		old, now Spec
		want     bool
	}{
		"nothing changes":         {Spec{Kernel: kernel, Direct: Targets{one: a}}, Spec{Kernel: kernel, Direct: Targets{one: a}}, false},
		"a port comes":            {Spec{Direct: Targets{one: a}}, Spec{Direct: Targets{one: a, two: b}}, false},
		"a port goes":             {Spec{Direct: Targets{one: a, two: b}}, Spec{Direct: Targets{one: a}}, true},
		"a port moves":            {Spec{Direct: Targets{one: a}}, Spec{Direct: Targets{one: b}}, true},
		"the kernel serves more":  {Spec{}, Spec{Kernel: kernel}, true},
		"the kernel serves fewer": {Spec{Kernel: kernel}, Spec{}, true},
		"a bridge is guarded":     {Spec{Kernel: kernel}, Spec{Kernel: kernel, Guarded: []string{"docker0"}}, false},
	}
	for name, test := range tests {
		if got := test.now.Diverts(test.old); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
