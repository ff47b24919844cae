package netwatch

import "testing"

func TestCheckLinkName(t *testing.T) {
	tests := []struct {
		name string
		ok   bool
	}{
		{"loopback0", true},
		{"a", true},
		{"wlp0s20f3-guest", true}, // 15 bytes
		{"Ärger", true},
		{"", false},
		{"sixteen-bytes-xx", false},
		{".", false},
		{"..", false},
		{"a/b", false},
		{"a:1", false},
		{"a b", false},
		{"a\tb", false},
		{"a\x00", false},
		{"a\x1b[2J", false},
		{"a\u009b2J", false},
		{"a\u202eb", false},
		{"a\xff", false},
	}
	for _, test := range tests {
		if err := CheckLinkName(test.name); (err == nil) != test.ok {
			t.Errorf("CheckLinkName(%q) = %v", test.name, err)
		}
	}
}
