package text

import (
	"strings"
	"testing"
)

// No secret remains, whatever surrounds it.
func FuzzRedact(f *testing.F) {
	f.Add("", "")
	f.Add("x", ":")
	f.Add("[", "]:80")
	f.Add("1.", ".1")
	f.Add("/home/", "/")
	f.Add("a:", "::1")
	f.Add("\xff", "İ")
	f.Fuzz(func(t *testing.T, before, after string) {
		r := NewRedactor()
		r.Add("user", "zaphod")
		r.Add("host", "heart-of-gold")
		for _, secret := range []string{"zaphod", "heart-of-gold", "8.8.8.8", "2a00:1450:4001:81b::200e"} {
			// An adjacent letter or digit would make it another word.
			got := r.Redact(before + " " + secret + " " + after)
			if strings.Contains(got, " "+secret+" ") {
				t.Errorf("%q in %q", secret, got)
			}
		}
	})
}
