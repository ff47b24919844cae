package ruleset

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// An engine rewrites all its rules in one transaction, like iptables-restore. Its port
// is published at every moment, so every reading must contain it.
func TestReadsNothingThatNeverWas(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	script := `table ip engine
delete table ip engine
table ip engine {
	chain ports {
` + strings.Repeat("\t\ttcp dport 1 counter\n", 300) + `		tcp dport 8080 dnat to 172.17.0.2:80
	}
	chain output { type nat hook output priority -100; jump ports; }
}
`
	write := func() error {
		_, err := b.WSL.Run("nft", script)
		return err
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	done := make(chan error)
	go func() {
		for !stop.Load() {
			time.Sleep(10 * time.Millisecond)
			if err := write(); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	err := b.WSL.Do(func() error {
		r, err := OpenReader(ownTable)
		if err != nil {
			return err
		}
		defer r.Close()
		missing := 0
		const reads = 1000
		for range reads {
			there := false
			_, err := r.Read(func(rs *Ruleset) error {
				for _, o := range rs.Walk(FromLinux(Iface{Name: "loopback0", Index: 1 << 20}), Sight{}) {
					there = o.Fate == Translated && o.Ports.Has(Port{Proto: 6, Number: 8080})
				}
				return nil
			})
			if err != nil {
				return err
			}
			if !there {
				missing++
			}
		}
		if missing > 0 {
			t.Errorf("in %d of %d readings the port is not there", missing, reads)
		}
		return nil
	})
	stop.Store(true)
	if err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
