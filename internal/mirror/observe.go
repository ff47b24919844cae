package mirror

import (
	"slices"

	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
)

func (s *system) observe(fresh bool) (Observed, error) {
	if fresh && s.reader != nil {
		s.reader.Forget()
	}
	o, err := s.read()
	if err != nil {
		s.closeReaders()
	}
	return o, err
}

func (s *system) read() (o Observed, err error) {
	if s.links == nil {
		if s.links, err = netwatch.OpenLinks(); err != nil {
			return o, err
		}
	}
	if s.rules == nil {
		if s.rules, err = openIPRules(); err != nil {
			return o, err
		}
	}
	if s.reader == nil {
		if s.reader, err = nft.OpenReader(); err != nil {
			return o, err
		}
		s.reader.Forward = s.forward
	}
	if s.holder == nil {
		if s.holder, err = nft.Open(); err != nil {
			return o, err
		}
	}
	if o.Links, err = s.links.Read(); err != nil {
		return o, err
	}
	o.Link = netwatch.Find(o.Links, s.iface)
	if o.Returns, o.Marked, err = s.rules.read(); err != nil {
		return o, err
	}
	var bridges []nft.Bridge
	if s.forward || len(o.Marked) > 0 {
		if bridges, err = s.readBridges(o.Links); err != nil {
			return o, err
		}
	}
	var ruleset *nft.Ruleset
	if o.Kernel, ruleset, err = s.reader.Read(); err != nil {
		return o, err
	}
	o.Ours = o.Kernel.Present && o.Kernel.Owner == s.holder.PortID()
	if iface := ifaceOf(o.Link); ruleset != s.viewed || iface != s.from || !slices.EqualFunc(bridges, s.bridges, nft.Bridge.Equal) {
		s.viewed, s.from, s.bridges = ruleset, iface, bridges
		s.view = ruleset.View(iface, bridges)
	}
	o.View, s.generation = s.view, s.view.Generation
	o.SourcePorts[0], o.SourcePorts[1] = ruleset.SourcePorts()
	return o, nil
}

func (s *system) readBridges(links []netwatch.Link) (bridges []nft.Bridge, err error) {
	prefixes, err := s.links.ReadPrefixes()
	for _, l := range links {
		// Only what is guarded is opened: see guarded.
		if l.Kind == "bridge" && l.Up && l.Master == 0 {
			bridges = append(bridges, nft.Bridge{Iface: ifaceOf(l), Prefixes: prefixes[l.Index]})
		}
	}
	return bridges, err
}

func ifaceOf(l netwatch.Link) nft.Iface { return nft.Iface{Name: l.Name, Index: l.Index} }

func (s *system) closeReaders() {
	if s.links != nil {
		s.links.Close()
		s.links = nil
	}
	if s.rules != nil {
		s.rules.close()
		s.rules = nil
	}
	if s.reader != nil {
		s.reader.Close()
		s.reader = nil
	}
}
