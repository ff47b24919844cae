package trace

import (
	"fmt"
	"slices"
	"strings"

	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A Manager is a program that writes the rules of a firewall. It writes them again when it
// reloads, and firewalld may own its table, so a rule that nft adds there is lost or refused.
type Manager string

// The managers whose commands trace knows.
const (
	UFW       Manager = "ufw"
	Firewalld Manager = "firewalld"
)

// manager is the program that wrote a chain, or set its policy. It is "" if it is unknown.
func (o *Observation) manager(h Hop) Manager {
	switch {
	case strings.HasSuffix(h.Table, " firewalld"):
		return Firewalld
	case strings.HasPrefix(h.Chain, "ufw-"),
		o.UFW && h.Handle == 0 && h.Table == "ip filter" && slices.Contains([]string{"INPUT", "OUTPUT", "FORWARD"}, h.Chain):
		return UFW
	}
	return ""
}

// managed are the commands with which the manager of a chain accepts the packet and similar
// ones: all that Windows and Linux send to 127.0.0.1, but of others only those to the same port.
func (p *packet) managed(h Hop) []string {
	if h.Manager == UFW {
		return p.ufw(h)
	}
	return p.firewalld(h)
}

// ufw is managed for ufw. The rule is the first one, because the user's own rules may deny the
// port, and names the address, because ufw does not move a rule that it has already.
func (p *packet) ufw(h Hop) []string {
	if strings.HasPrefix(h.Chain, "ufw-before-") || h.Chain == "ufw-not-local" {
		// These come before the rules that its command adds.
		return []string{"# let /etc/ufw/before.rules accept it, and then: sudo ufw reload"}
	}
	mirrored := h.In == p.f.Link || h.Out == p.f.Link
	in, out, to := text.Word(h.In), text.Word(h.Out), ""
	switch {
	case mirrored && p.dst == ruleset.Localhost:
		to = " to 127.0.0.1"
	case h.In != "" && !mirrored:
		to = fmt.Sprintf(" proto %s to %s port %d", p.port.ProtoName(), p.dst, p.port.Number)
	}
	switch {
	case h.Hook == hookNames[forward]:
		return []string{fmt.Sprintf("sudo ufw route prepend allow in on %s out on %s%s", in, out, to)}
	case h.Out != "":
		return []string{fmt.Sprintf("sudo ufw prepend allow out on %s%s", out, to)}
	}
	return []string{fmt.Sprintf("sudo ufw prepend allow in on %s%s", in, to)}
}

// firewalld is managed for firewalld: the link of Windows gets the zone trusted. A policy, and
// a rule of that zone, may still stop the packet, and then get a rule that comes before theirs.
func (p *packet) firewalld(h Hop) []string {
	_, policy, byPolicy := strings.Cut(h.Chain, "_policy_")
	for _, part := range []string{"_pre", "_log", "_deny", "_allow", "_post"} {
		policy = strings.TrimSuffix(policy, part)
	}
	rule := " --add-rich-rule=" + text.Word(fmt.Sprintf("rule priority=-1 family=ipv4 destination address=%s accept", p.dst))
	var words string
	switch {
	case h.nat && (byPolicy || h.In != p.f.Link && h.Out != p.f.Link):
		return []string{fmt.Sprintf("# let firewalld leave the source of packets alone that leave through %s", h.Out)}
	case byPolicy:
		words = "--policy=" + text.Word(policy) + rule
	case strings.Contains(h.Chain, "_trusted"):
		words = "--zone=trusted" + rule
	case h.In == p.f.Link:
		words = "--zone=trusted --change-interface=" + text.Word(h.In)
	case h.Out == p.f.Link:
		words = "--zone=trusted --change-interface=" + text.Word(h.Out)
	default:
		words = "--add-port=" + p.port.String() // in the default zone
	}
	return []string{"sudo firewall-cmd " + words, "sudo firewall-cmd --permanent " + words}
}
