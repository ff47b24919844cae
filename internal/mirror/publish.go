package mirror

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// publish tells the outcome of a pass to Config.Publish, and to the log if it
// is another one than the last time.
func (d *Daemon) publish(c change, err error) error {
	obs, want := c.obs, c.want
	now := time.Now()
	s := status.Snapshot{
		State: want.State,
		Interface: status.Interface{
			Name: d.cfg.Interface, Index: obs.Host.Index, Present: obs.Host.Present(),
		},
		Mode:    string(obs.Mode),
		Path:    status.PathProxy,
		Table:   status.Table{Family: nft.TableFamily, Name: nft.TableName, Installed: c.serves},
		Since:   d.last.Since,
		Updated: now,
	}
	counted := obs.Counters
	if !obs.Ours {
		counted = nft.Counters{} // those are what another daemon has counted
	}
	s.Rule = status.Rule(counted.Sent)
	s.Directions = directions(obs, want, d.cfg.Policy, counted)
	if d.cfg.Policy.Direct {
		s.Path = status.PathDirect
	}
	if first, last := obs.SourcePorts[0], obs.SourcePorts[1]; last != 0 {
		s.SourcePorts = &status.PortRange{First: first, Last: last}
	}
	var targets nft.Targets
	if want.Table != nil {
		targets = want.Table.Targets()
	}
	for _, p := range obs.Rules.Published {
		s.Ports = append(s.Ports, d.port(obs, p, targets))
	}
	if err != nil {
		s.State = status.Error
		s.Reason = strings.ReplaceAll(err.Error(), "\n", "; ") // joined errors
	}
	if s.State != d.last.State {
		s.Since = now
	}
	if s.State != d.last.State || s.Reason != d.last.Reason || s.Interface != d.last.Interface {
		log := d.cfg.Log.WithFields(logrus.Fields{"state": s.State, "interface": s.Interface.Name})
		if s.Interface.Present {
			log = log.WithField("index", s.Interface.Index)
		}
		if err != nil {
			log.WithError(err).Error("could not look or could not repair, trying again")
		} else {
			log.Info(s.Sentence())
		}
	}
	d.last = s
	return d.cfg.Publish(s)
}

// port is a published port as the status has it.
func (d *Daemon) port(obs Observed, p ruleset.Published, targets nft.Targets) status.Port {
	out := status.Port{
		Proto: p.Port.ProtoName(), Port: p.Port.Number, Address: p.Addr.String(),
		Engine: p.Engine, Path: status.PathProxy,
	}
	if p.To.IsValid() {
		out.Target = p.To.String()
	}
	switch {
	case p.EngineServed:
		out.Path = status.PathKernel
	case !d.cfg.Policy.Direct || targets == nil:
	case targets[p.Port].IsValid():
		out.Path = status.PathDirect
	default:
		out.Reason = cmp.Or(obstacle(obs, p), "its bridge could not be opened")
	}
	for _, r := range obs.Foreign.Barred {
		if r.Port == p.Port {
			out.Reason = fmt.Sprintf("table %s %s drops it, and only the process that owns the table could change that", r.At.Family(), r.At.Table())
		}
	}
	return out
}
