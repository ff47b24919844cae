package lab

import "github.com/wslmirror/wslmirror/internal/lab/tracker"

// trackedPorts are the ports that Windows has heard of from WSL's port tracker.
type trackedPorts struct{ tracker *tracker.Tracker }

// trackPorts puts all that starts in WSL from now on under a port tracker.
func (o *owner) trackPorts(opts tracker.Options) error {
	b := o.bench
	first, last := b.FirstPort, b.LastPort
	if opts.Consomme = b.mode == Consomme; opts.Consomme {
		first, last = 1, 0 // there is no block
	}
	t, err := tracker.New(opts, b.WSL.NetNS(), first, last, func() {
		_ = o.refresh() // a lasting error meets the next client
	})
	if err != nil {
		return err
	}
	o.ports = trackedPorts{t}
	b.Tracker, b.WSL.enter = t, t.Enter
	return nil
}

func (p trackedPorts) list() ([]port, error) {
	var ports []port
	for _, q := range p.tracker.Ports() {
		ports = append(ports, port{q.Proto, q.Number})
	}
	return ports, nil
}

func (p trackedPorts) close() error { return p.tracker.Close() }
