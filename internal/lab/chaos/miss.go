package chaos

import (
	"fmt"
	"strings"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// A Miss is a world that was not as it should be.
type Miss struct {
	Seed   uint64
	Step   int // how many steps show it
	Mode   lab.Mode
	Direct bool
	Rest   time.Duration
	Recent []string // the last faults
	What   error
	Log    string // the end of what the daemons logged
}

func (m *Miss) Error() string {
	path := "proxy"
	if m.Direct {
		path = "direct"
	}
	replay := fmt.Sprintf("mirrorlab chaos --seed %d --steps %d --mode %s --path %s", m.Seed, m.Step, m.Mode, path)
	if m.Rest > 0 {
		replay += fmt.Sprintf(" --rest %v", m.Rest)
	}
	return fmt.Sprintf("seed %d, step %d: %v\nthe last faults: %s\nreplay: %s\n%s",
		m.Seed, m.Step, m.What, strings.Join(m.Recent, "; "), replay, m.Log)
}

func (m *Miss) Unwrap() error { return m.What }

func (r *runner) miss(err error) error {
	m := &Miss{Seed: r.w.cfg.Seed, Step: r.res.Steps, Mode: r.w.cfg.Mode, Direct: r.w.cfg.Direct, Rest: r.w.cfg.Rest, Recent: r.recent, What: err}
	for i, d := range r.w.daemons {
		m.Log += fmt.Sprintf("daemon %d, stopped: %v\n%s", i, d.stopped, d.log.tail())
		if d.holder != nil {
			m.Log += fmt.Sprintf("its holder, stopped: %v\n%s", d.holder.stopped, d.holder.log.tail())
		}
	}
	return m
}
