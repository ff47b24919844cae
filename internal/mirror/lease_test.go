package mirror

import (
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/nft"
)

// The kernel is asked again for what it lacked, and not in each pass: the question is an
// event itself, which causes a pass.
func TestAsksTheKernelSeldom(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	lacked := nft.Features{Refuse: true} // which this kernel does not
	for asked, want := range map[time.Duration]nft.Features{0: lacked, askAgain / 2: lacked, askAgain: {}} {
		l := &lease{lacks: lacked, asked: time.Now().Add(-asked)}
		if err := b.WSL.Do(func() error { l.lookAgain(); return nil }); err != nil {
			t.Fatal(err)
		}
		if l.lacks != want {
			t.Errorf("%v after the last time: lacks %+v, want %+v", asked, l.lacks, want)
		}
	}
}
