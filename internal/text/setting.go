package text

import "strings"

// Setting returns the value of a key in a section of an INI or TOML file. It ignores
// case, like WSL.
func Setting(lines []string, section, key string) (value string, found bool) {
	in := false
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, "[") {
			in = strings.EqualFold(strings.Trim(l, "[] "), section)
			continue
		}
		k, v, ok := strings.Cut(l, "=")
		if in && ok && strings.EqualFold(strings.TrimSpace(k), key) {
			v, _, _ = strings.Cut(v, "#")
			value, found = strings.Trim(strings.TrimSpace(v), `"`), true
		}
	}
	return value, found
}
