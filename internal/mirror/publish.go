package mirror

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// publish reports the outcome of a pass to Config.Publish, and logs it if it differs from
// the last one.
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
		counted = nft.Counters{} // another daemon's counters
	}
	s.Rule = status.Rule(counted.Sent)
	s.Directions = directions(obs, want, d.cfg.Policy, counted)
	if c.serves && err == nil {
		s.Degraded = lacks(obs, d.cfg.Policy, d.unevicted)
	}
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
	if s.State != d.last.State || s.Reason != d.last.Reason || s.Interface != d.last.Interface || !slices.EqualFunc(s.Degraded, d.last.Degraded, sameFeature) {
		log := d.cfg.Log.WithFields(logrus.Fields{"state": s.State, "interface": s.Interface.Name})
		if s.Interface.Present {
			log = log.WithField("index", s.Interface.Index)
		}
		switch {
		case err != nil:
			log.WithError(err).Error("could not read or change the kernel's state, retrying")
		case len(s.Degraded) > 0:
			log.Warn(s.Sentence())
		default:
			log.Info(s.Sentence())
		}
	}
	for _, line := range status.Changes(d.last, s) {
		d.cfg.Log.Info(line)
	}
	d.cfg.Log.Debugf("%v", decision{c, s}) // String runs only if debug is logged
	ports, ways := d.last.Ports, d.last.Directions
	if d.last = s; s.State == status.Error {
		d.last.Ports, d.last.Directions = ports, ways // not observed, which does not mean gone
	}
	return d.cfg.Publish(s)
}

// A decision is the outcome of a pass and its reasons, as text for the log.
type decision struct {
	change
	told status.Snapshot
}

func (d decision) String() string {
	obs, want := d.obs, d.want
	if !d.seen {
		return "could not read the kernel's state, so nothing was decided"
	}
	if d.told.State == status.Error {
		return "could not carry out the decision, or could not watch the kernel: " + d.told.Reason
	}
	switch want.State {
	case status.Standby:
		return fmt.Sprintf("decided on standby, because another process (netlink port %d) owns the table", obs.Table.Owner)
	case status.Waiting:
		return fmt.Sprintf("decided to wait, because none of %[2]d links is %[1]s", d.told.Interface.Name, len(obs.Links))
	}
	words := []string{fmt.Sprintf("decided to be active, because %s exists (index %d, mode %s) and no other process owns the table",
		obs.Host.Name, obs.Host.Index, obs.Mode)}
	say := func(what string, list ...string) {
		if len(list) > 0 {
			words = append(words, what+": "+strings.Join(list, ", "))
		}
	}
	paths := map[string][]string{}
	var why []string
	for _, p := range d.told.Ports {
		name := fmt.Sprintf("%d/%s", p.Port, p.Proto)
		paths[p.Path] = append(paths[p.Path], name)
		if p.Reason != "" {
			why = append(why, name+" ("+p.Reason+")")
		}
	}
	say("sent to the listener in Linux", paths[status.PathProxy]...)
	say("left to the engine's own rules", paths[status.PathKernel]...)
	say("sent to the container", paths[status.PathDirect]...)
	say("not direct", why...)
	say("guarded links", guarded(obs)...)
	say("bridges to open", linkNames(want.Open)...)
	say("bridges to close", linkNames(want.Shut)...)
	for _, r := range want.Add {
		say("accept rule to add", r.String())
	}
	for _, r := range want.Remove {
		say("accept rule to remove", r.String())
	}
	if len(want.Restore) > 0 {
		say("parts of WSL's setup to restore", want.Restore.String())
	}
	if want.Wait {
		words = append(words, "a part of WSL's setup has just disappeared and may return, so wslmirror waits")
	}
	return strings.Join(words, "; ")
}

func linkNames(links []netwatch.Link) (names []string) {
	for _, l := range links {
		names = append(names, l.Name)
	}
	return names
}

// port returns a published port in the form of the status.
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
	case obs.Lacks.Direct:
		out.Reason = lacksRepair
	case targets[p.Port].IsValid():
		out.Path = status.PathDirect
	default:
		out.Reason = cmp.Or(obstacle(obs, p), "its bridge could not be opened")
	}
	if d.cfg.Policy.Except.Has(p.Port) {
		out.Reason = status.Excepted
	}
	for _, r := range obs.Foreign.Barred {
		if r.Port == p.Port {
			out.Reason = fmt.Sprintf("table %s %s drops it, and only the process that owns the table can change that", r.At.Family(), r.At.Table())
		}
	}
	return out
}
