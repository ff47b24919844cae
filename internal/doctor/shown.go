package doctor

import (
	"slices"
	"strings"

	"github.com/wslmirror/wslmirror/internal/text"
)

// judged are the flags whose values tell of a fault and of nobody: of dockerd, and
// of "wslmirror run". Others may have passwords in them, as that of a proxy.
var judged = []string{
	"userland-proxy", "iptables", "ip6tables", "firewall-backend",
	"interface", "path", "repair", "runtime-dir", "log-level",
}

// Shown are the arguments of p as far as they may be published: what is not judged
// is known by its name alone.
func (p Program) Shown() []string {
	const hidden = "…"
	var shown []string
	for i := 0; i < len(p.Args); i++ {
		arg := p.Args[i]
		flag := strings.TrimLeft(arg, "-")
		name, value, has := strings.Cut(flag, "=")
		switch {
		case i == 0:
			arg = p.Name // its path may be in somebody's home
		case i == 1 && arg == "run":
		case flag == arg || !isFlag(name):
			arg = hidden // the value of the flag before it, or a word
		case !slices.Contains(judged, name) && !strings.HasPrefix(arg, "--") && len(arg) > 2:
			arg = arg[:2] + hidden // a short flag and its value
		case !slices.Contains(judged, name):
			if has {
				arg = strings.TrimSuffix(arg, value) + hidden
			}
		case !has && i+1 < len(p.Args) && !strings.HasPrefix(p.Args[i+1], "-"):
			i++
			arg += " " + p.Args[i]
		}
		shown = append(shown, text.Line(arg))
	}
	return shown
}

// isFlag reports whether name is of letters and digits, as names of flags are.
func isFlag(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
	})
}
