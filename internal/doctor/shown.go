package doctor

import (
	"slices"
	"strings"

	"github.com/wslmirror/wslmirror/internal/text"
)

// judged are the flags whose values matter for a diagnosis and are not private: of dockerd, and
// of "wslmirror run". Others may contain passwords, for example of a proxy.
var judged = []string{
	"userland-proxy", "iptables", "ip6tables", "firewall-backend",
	"interface", "path", "repair", "runtime-dir", "log-level",
}

// Shown are the arguments of p as far as they may be published: of other flags it shows
// only the name.
func (p Program) Shown() []string {
	const hidden = "…"
	shown := []string{p.Name} // its path may be in a home directory
	value := false            // the next argument may be the value of a flag that is judged
	for i, arg := range p.Args[min(1, len(p.Args)):] {
		name, _, has := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		isWord := !strings.HasPrefix(arg, "-")
		known := !isWord && slices.Contains(judged, name)
		switch {
		case known, isWord && value, i == 0 && arg == "run":
		case isWord, !isFlag(name):
			arg = hidden
		case !strings.HasPrefix(arg, "--") && len(arg) > 2:
			arg = arg[:2] + hidden // a short flag and its value
		case has:
			arg = "--" + name + "=" + hidden
		}
		value = known && !has
		shown = append(shown, text.Line(arg))
	}
	return shown
}

// isFlag reports whether name consists of letters, digits and dashes.
func isFlag(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
	})
}
