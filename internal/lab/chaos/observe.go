package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A sight is what the kernel holds: what is wslmirror's, in the form of
// expected and opened, and all that is not.
type sight struct {
	ours   []string
	opened []string
	others string
}

var (
	elementsOfSet = regexp.MustCompile(`(?s)elements = \{ (.*?) \}`)
	// ourAccept is a rule of wslmirror's in a table of others.
	ourAccept = regexp.MustCompile(`^iifname "loopback0" ip daddr 127.0.0.1 (tcp|udp) dport (\d+) counter (?:packets \d+ bytes \d+ )?accept comment "wslmirror: .*"$`)
)

// look reads the kernel by nft, by netlink and by /proc/sys.
func (w *world) look() (s sight, err error) {
	list, err := w.bench.WSL.Run("nft", "--stateless", "list", "ruleset")
	if err != nil {
		return s, err
	}
	s.readRuleset(list)
	rules, err := w.bench.WSL.Net.RuleList(unix.AF_INET)
	if err != nil {
		return s, fmt.Errorf("list ip rules: %w", err)
	}
	var others []string
	for _, r := range rules {
		text := fmt.Sprintf("%d: ", max(r.Priority, 0))
		if r.IifName != "" {
			text += "iif " + r.IifName + " "
		}
		if r.Mark != 0 || r.Mask != nil {
			text += fmt.Sprintf("fwmark %#x/%#x ", r.Mark, *r.Mask)
		}
		if r.IPProto != 0 {
			text += fmt.Sprintf("ipproto %d ", r.IPProto)
		}
		text += fmt.Sprintf("lookup %d proto %d", r.Table, r.Protocol)
		if r.Protocol == 'W' {
			s.ours = append(s.ours, "rule: "+text)
		} else {
			others = append(others, text)
		}
	}
	routes, err := w.bench.WSL.Run("ip", "-4", "route", "show", "table", "all")
	if err != nil {
		return s, err
	}
	routes = strings.ReplaceAll(routes, " linkdown", "") // which takes the kernel a while to find out
	sysctls, err := w.lookAtSysctls(&s)
	s.others += strings.Join(others, "\n") + "\n" + routes + sysctls
	return s, err
}

// lookAtSysctls reads those of all links.
func (w *world) lookAtSysctls(s *sight) (others string, err error) {
	err = w.bench.WSL.Do(func() error {
		links, err := os.ReadDir("/proc/sys/net/ipv4/conf")
		if err != nil {
			return err
		}
		for _, l := range links {
			for _, key := range []string{"route_localnet", "rp_filter", "accept_local"} {
				b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", l.Name(), key))
				if err != nil {
					return err
				}
				value := strings.TrimSpace(string(b))
				ours := key == "route_localnet" && slices.ContainsFunc(w.allBridges(), func(b *bridge) bool { return b.name == l.Name() })
				switch {
				case !ours:
					others += l.Name() + "/" + key + "=" + value + "\n"
				case value == "1":
					s.opened = append(s.opened, "route_localnet: "+l.Name())
				}
			}
		}
		return nil
	})
	return others, err
}

func (s *sight) readRuleset(list string) {
	list = elementsOfSet.ReplaceAllStringFunc(list, func(m string) string {
		elements := strings.Split(elementsOfSet.FindStringSubmatch(m)[1], ",")
		for i := range elements {
			elements[i] = strings.TrimSpace(elements[i])
		}
		slices.Sort(elements)
		return "elements = { " + strings.Join(elements, ", ") + " }"
	})
	var table, chain string
	var others strings.Builder
	ours := false
	var accepts []string
	for line := range strings.Lines(list) {
		text := strings.TrimSpace(line)
		switch f := strings.Fields(text); {
		case strings.HasPrefix(line, "table "):
			table = f[1] + " " + f[2]
			if ours = table == "ip wslmirror"; ours {
				text = "table ip wslmirror {" // nft adds whose it is
			}
		case strings.HasPrefix(text, "chain "):
			chain = f[1]
		}
		switch m := ourAccept.FindStringSubmatch(text); {
		case text == "":
		case ours:
			s.ours = append(s.ours, text)
		case m != nil:
			accepts = append(accepts, fmt.Sprintf("accept: %s %s %s %s", table, chain, m[1], m[2]))
		default:
			others.WriteString(line)
		}
		if strings.HasPrefix(line, "}") {
			ours = false
		}
	}
	s.ours = append(s.ours, accepts...)
	s.others = others.String()
}

// difference says in which lines two lists differ; "" if they have the same
// lines in whatever order.
func difference(want, got []string) string {
	var b strings.Builder
	rest := slices.Clone(got)
	for _, line := range want {
		if i := slices.Index(rest, line); i >= 0 {
			rest = slices.Delete(rest, i, i+1)
		} else {
			b.WriteString("missing: " + line + "\n")
		}
	}
	for _, line := range rest {
		b.WriteString("surplus: " + line + "\n")
	}
	return b.String()
}
