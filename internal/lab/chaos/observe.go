package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// A sight is what the kernel holds: what is wslmirror's, in the form of
// expected and opened, and all that is not.
type sight struct {
	ours   []string
	opened []string
	others string
	// wsl is how much there is of what WSL has set up, by part: wslmirror restores it.
	wsl map[string]int
}

var (
	elementsOfSet = regexp.MustCompile(`(?s)elements = \{ (.*?) \}`)
	// ourAccept is a rule of wslmirror's in a table of others.
	ourAccept = regexp.MustCompile(`^iifname "loopback0" ip daddr 127.0.0.1 (tcp|udp) dport (\d+) counter (?:packets \d+ bytes \d+ )?accept comment "wslmirror: .*"$`)
)

// look reads the kernel by nft, by netlink and by /proc/sys.
func (w *world) look() (s sight, err error) {
	s.wsl = map[string]int{}
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
		switch {
		case r.Protocol == 'W':
			s.ours = append(s.ours, "rule: "+text)
		case isWSLs(r):
			s.wsl[fmt.Sprintf("rule: iif %q proto %d lookup %d", r.IifName, r.IPProto, r.Table)]++
		default:
			others = append(others, text)
		}
	}
	routes, err := w.bench.WSL.Run("ip", "-4", "route", "show", "table", "all")
	if err != nil {
		return s, err
	}
	routes = strings.ReplaceAll(routes, " linkdown", "") // which takes the kernel a while to find out
	for line := range strings.Lines(routes) {
		if strings.HasPrefix(line, "127.0.0.1 via ") {
			s.wsl["route"]++
		} else {
			others = append(others, strings.TrimSuffix(line, "\n"))
		}
	}
	sysctls, err := w.lookAtSysctls(&s)
	s.others += strings.Join(others, "\n") + "\n" + sysctls
	return s, err
}

// isWSLs reports whether a rule is one of those that WSL adds.
func isWSLs(r netlink.Rule) bool {
	if r.Mask != nil || r.Mark != 0 || r.Priority > 2 {
		return false
	}
	return r.Table == 127 || r.Table == 128 || r.Table == unix.RT_TABLE_LOCAL
}

// lost is what is missing of what WSL has set up for localhost and for containers, ""
// if nothing is.
func (w *world) lost(s sight) string {
	want := map[string]int{}
	if w.loopback0 == present {
		want["route"] = 1
	}
	for _, proto := range []int{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		want[fmt.Sprintf("rule: iif %q proto %d lookup %d", "loopback0", proto, unix.RT_TABLE_LOCAL)] = 1
		want[fmt.Sprintf("rule: iif %q proto %d lookup %d", "", proto, 127)] = 1
	}
	if w.cfg.Mode != lab.Consomme {
		for _, family := range []string{"ip", "ip6"} {
			want[family+" filter WSLOUTPUT"], want[family+" nat WSLPOSTROUTING"] = 1, 2
		}
	}
	var missing []string
	for part, n := range want {
		if s.wsl[part] < n {
			missing = append(missing, fmt.Sprintf("missing of WSL's: %s\n", part))
		}
	}
	slices.Sort(missing)
	return strings.Join(missing, "")
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
	var others, of strings.Builder // of one table
	ours, inWSLs, dynamic := false, false, false
	var accepts []string
	for line := range strings.Lines(list) {
		text := strings.TrimSpace(line)
		switch f := strings.Fields(text); {
		case strings.HasPrefix(line, "table "):
			table = f[1] + " " + f[2]
			if ours = table == "ip wslmirror"; ours {
				text = "table ip wslmirror {" // nft adds whose it is
			}
			of.Reset()
		case strings.HasPrefix(text, "flags "):
			dynamic = strings.HasPrefix(text, "flags dynamic")
		case strings.HasPrefix(text, "set "), strings.HasPrefix(text, "map "):
			dynamic = false
		case strings.HasPrefix(text, "chain "):
			chain = f[1]
			inWSLs = strings.HasPrefix(chain, "WSL") && !ours
		}
		switch m := ourAccept.FindStringSubmatch(text); {
		case text == "":
		case ours && dynamic && strings.HasPrefix(text, "elements = "): // which packets fill
		case ours:
			s.ours = append(s.ours, text)
		case m != nil:
			accepts = append(accepts, fmt.Sprintf("accept: %s %s %s %s", table, chain, m[1], m[2]))
		case inWSLs:
			if !strings.HasPrefix(text, "chain ") && !strings.HasPrefix(text, "type ") && text != "}" {
				s.wsl[table+" "+chain]++
			}
		default:
			of.WriteString(line)
		}
		switch {
		case strings.HasPrefix(line, "}"):
			// A table in which there are only chains of WSL's is WSL's.
			if strings.Count(of.String(), "\n") > 2 {
				others.WriteString(of.String())
			}
			ours, inWSLs = false, false
			of.Reset()
		case text == "}":
			inWSLs = false
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
