package mirror

import (
	"cmp"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// directions returns the directions of traffic: whether each is active, why not, and its
// counter.
func directions(obs Observed, want Desired, p Policy, counted nft.Counters) []status.Direction {
	var toWindows ruleset.Ports
	if want.Table != nil {
		toWindows, _ = want.Table.ToWindows()
	}
	serves := want.Table != nil && want.State == status.Active
	direction := func(name, why string, c nft.Count) status.Direction {
		d := status.Direction{Name: name, Active: serves && why == "", Connections: c.Packets}
		if serves {
			d.Reason = why
		}
		return d
	}
	repair := func(why string) string {
		if !p.Repair {
			return "--repair=false"
		}
		return why
	}
	containers := direction(status.ContainersToWindows, whyNotToWindows(obs, p, toWindows), counted.Containers)
	for port := range toWindows.All() {
		containers.Ports = append(containers.Ports, port.String())
	}
	if left := p.ToWindows.Minus(toWindows); containers.Active && !left.Empty() {
		containers.Reason = served(left)
	}
	return []status.Direction{
		direction(status.FromWindows, "", counted.Windows),
		direction(status.FromLinux, repair(when(obs.Lacks.Repair, lacksRepair)), counted.Linux),
		direction(status.ClosedPorts, repair(whyNotRefuse(obs)), counted.Refused),
		direction(status.OwnAddress, repair(cmp.Or(
			when(len(obs.Own) == 0, "only with hostAddressLoopback in mirrored mode"), when(obs.Lacks.Repair, lacksRepair))), counted.Own),
		containers,
	}
}

// whyNotRefuse returns why closed ports do not refuse; "" if they do.
func whyNotRefuse(obs Observed) string {
	switch {
	case !obs.Mode.Mirrors():
		return "only in mirrored mode: in other modes they are not known to hang"
	case obs.Lacks.Refuse:
		return lacksRefuse
	}
	return ""
}

// whyNotToWindows returns why containers do not reach Windows; "" if they do.
func whyNotToWindows(obs Observed, p Policy, ports ruleset.Ports) string {
	_, last := sourcePorts(obs)
	switch {
	case p.ToWindows.Empty():
		return status.NoPorts
	case obs.Lacks.ToWindows:
		return lacksToWindows
	case last == 0:
		return "the source ports that Windows expects are unknown: WSL's chain WSLPOSTROUTING is gone"
	case ports.Empty():
		return served(p.ToWindows)
	}
	return ""
}

// served returns why ports of --to-windows belong to Linux.
func served(ports ruleset.Ports) string {
	return "Linux serves or publishes " + ports.String()
}

// when returns text if is holds, and "" if not.
func when(is bool, text string) string {
	if is {
		return text
	}
	return ""
}
