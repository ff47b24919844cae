package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// A StormResult is what a storm of events has cost.
type StormResult struct {
	Events int
	Took   time.Duration
	Cost
	// Before are the descriptors that were open before the storm.
	Before int
}

// Storm makes events of links and of rulesets, as many of either, evenly over a
// time; none of them means anything to wslmirror. Afterwards all must be as it
// should within a second.
func Storm(ctx context.Context, cfg Config, events int, over time.Duration) (res StormResult, err error) {
	r, err := newRunner(cfg)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	w := r.w
	time.Sleep(time.Second) // until what the start has left to do is done
	m, err := newMeter(w.daemons[0])
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	res.Before = m.cost.Descriptors
	start, began := m.cost, time.Now()
	if res.Events, err = w.storm(ctx, events, over, m); err != nil {
		return res, err
	}
	res.Took = time.Since(began)
	// Something real at the end of it all.
	if err := w.docker.published()[0].release(); err != nil {
		return res, err
	}
	if err := w.docker.write(); err != nil {
		return res, err
	}
	if err := r.converge(r.w.deadline()); err != nil {
		return res, fmt.Errorf("after a storm: %w", err)
	}
	if err := m.sample(); err != nil {
		return res, err
	}
	res.Cost = m.cost
	res.CPU -= start.CPU
	res.Looks -= start.Looks
	return res, nil
}

func (w *world) storm(ctx context.Context, events int, over time.Duration, m *meter) (made int, err error) {
	h := w.bench.WSL.Net
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "storm0"
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "storm1"}
	if err := h.LinkAdd(link); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, h.LinkDel(link)) }()
	c, err := w.bench.WSL.NFT(nftables.AsLasting())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.CloseLasting()) }()
	const tick = 10 * time.Millisecond
	began := time.Now()
	for made < events && ctx.Err() == nil {
		due := min(events, int(float64(events)*float64(time.Since(began)+tick)/float64(over)))
		for made < due {
			if err := generations(c, 1); err != nil { // six events
				return made, err
			}
			for i := range 6 { // and six of links
				if err := h.LinkSetMTU(link, 1400+i); err != nil {
					return made, err
				}
			}
			made += 12
		}
		if err := m.sample(); err != nil {
			return made, err
		}
		time.Sleep(tick)
	}
	return made, ctx.Err()
}
