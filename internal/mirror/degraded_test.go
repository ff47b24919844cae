package mirror

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
)

// A missing feature is reported only where it would be used.
func TestLacks(t *testing.T) {
	all := nft.Features{Repair: true, Direct: true, Refuse: true, ToWindows: true}
	everything := Policy{Repair: true, Direct: true, ToWindows: tcpPorts(9100)}
	for name, test := range map[string]struct {
		lacks     nft.Features
		mode      netwatch.Mode
		policy    Policy
		unevicted error
		want      []string
	}{
		"nothing":                 {nft.Features{}, netwatch.Mirrored, everything, nil, nil},
		"nft_ct":                  {all, netwatch.Mirrored, everything, nil, []string{"localhost from Linux", "closed ports", "the path direct", "containers to Windows"}},
		"nft_ct, by default":      {all, netwatch.Mirrored, Policy{Repair: true}, nil, []string{"localhost from Linux", "closed ports"}},
		"nft_ct, --repair=false":  {all, netwatch.Mirrored, Policy{}, nil, nil},
		"nft_reject":              {nft.Features{Refuse: true}, netwatch.Mirrored, everything, nil, []string{"closed ports"}},
		"nft_reject, in consomme": {nft.Features{Refuse: true}, netwatch.Consomme, everything, nil, nil},
		"nf_conntrack_netlink":    {nft.Features{}, netwatch.Mirrored, everything, unix.EINVAL, []string{"reset of earlier connections"}},
		"memory":                  {nft.Features{}, netwatch.Mirrored, everything, unix.ENOMEM, nil},
	} {
		var got []string
		for _, l := range lacks(Observed{Lacks: test.lacks, Mode: test.mode}, test.policy, test.unevicted) {
			if got = append(got, l.Feature); l.Reason == "" || len(l.Fix) == 0 {
				t.Errorf("%s: %+v", name, l)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// Without what the repair needs there is no ip rule, since nothing would give a reply its
// mark. What else the policy wants is there.
func TestDecideWithoutRepair(t *testing.T) {
	o := booted()
	o.Mode = netwatch.Mirrored
	for _, lacking := range []bool{false, true} {
		o.Lacks.Repair = lacking
		d := decide(o, Policy{Repair: true})
		if d.State != status.Active || d.Table == nil {
			t.Fatalf("lacking %v: %+v", lacking, d)
		}
		has := map[string]bool{}
		for _, c := range d.Table.Chains {
			has[c.Name] = true
		}
		if d.ReplyRule == lacking || has["output"] == lacking || !has["WSLPREROUTING"] || !has["guard"] || !has["refuse"] {
			t.Errorf("lacking %v: reply rule %v, chains %v", lacking, d.ReplyRule, has)
		}
	}
}

// Flows that could not be reset are reset when that is possible. Until then, the attempts
// are not frequent.
func TestEvictsWhenItCan(t *testing.T) {
	k := &fake{link: netwatch.Link{Name: "loopback0", Index: 2}, evictErr: unix.EINVAL}
	loop(t, k, func(t *testing.T, d *Daemon) {
		k.after(0)
		k.set(func() { k.table = k.wanted })
		seen, published := k.after(time.Hour)
		if s := last(published); s.State != status.Active || len(s.Degraded) != 1 {
			t.Errorf("published %+v", s)
		}
		if len(seen) > 40 || k.evicted < 2 || k.evicted > len(seen) {
			t.Errorf("%d looks in an hour, %d tries", len(seen), k.evicted)
		}
		k.set(func() { k.evictErr = nil })
		tries := k.evicted
		d.watcher.Wake()
		_, published = k.after(time.Second)
		if s := last(published); k.evicted != tries+1 || len(s.Degraded) != 0 {
			t.Errorf("%d tries more, published %+v", k.evicted-tries, s)
		}
		d.watcher.Wake()
		if k.after(time.Second); k.evicted != tries+1 {
			t.Errorf("evicts once more")
		}
	})
}
