package ruleset

import (
	"strings"
	"testing"

	"github.com/google/nftables/userdata"
)

// The author of a rule chooses its user data, up to 256 bytes (NFT_USERDATA_MAXLEN).
func TestComment(t *testing.T) {
	text := func(s string) []byte { return userdata.AppendString(nil, userdata.TypeComment, s) }
	longest := strings.Repeat("x", 253)
	for _, test := range []struct {
		data []byte
		want string
	}{
		{text("mirrored"), "mirrored"},
		{text(longest), longest},
		{append([]byte{9, 2, 'a', 'b'}, text("after another")...), "after another"},
		{[]byte{0, 255, 'x'}, ""},
		{[]byte{0}, ""},
		{nil, ""},
	} {
		if got := comment(test.data); got != test.want {
			t.Errorf("comment(%q) = %q, want %q", test.data, got, test.want)
		}
	}
}
