package windows

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/wslmirror/wslmirror/internal/text"
)

// users makes a folder of Windows users. A file "x/" is a folder.
func users(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, "Users", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			os.MkdirAll(path, 0o755)
		} else if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "Users")
}

func TestReadConfig(t *testing.T) {
	utf16 := "\xff\xfe"
	for _, c := range "[experimental]\r\nhostAddressLoopback=true\r\n" {
		utf16 += string([]byte{byte(c), 0})
	}
	for _, test := range []struct {
		content map[string]string
		want    Config
		fails   bool
	}{
		{nil, Config{}, true},
		{map[string]string{"anna/": ""}, Config{}, false},
		{map[string]string{"anna/.wslconfig": "[wsl2]\r\nnetworkingMode=mirrored\r\n[experimental]\r\nhostAddressLoopback=true\r\n"}, Config{"mirrored", true, ""}, false},
		{map[string]string{"anna/.wslconfig": "\ufeff[Experimental]\nhostaddressloopback = True"}, Config{"", true, ""}, false},
		{map[string]string{"anna/.wslconfig": utf16}, Config{"", true, ""}, false},
		{map[string]string{"anna/.wslconfig": "[experimental]\n#hostAddressLoopback=true"}, Config{}, false},
		{map[string]string{"anna/.wslconfig": "", "bob/.wslconfig": "[experimental]\nhostAddressLoopback=true"}, Config{}, true},
	} {
		if got, err := ReadConfig(users(t, test.content)); got != test.want || (err != nil) != test.fails {
			t.Errorf("%q: %+v, %v", test.content, got, err)
		}
	}
}

// A file from Windows' Notepad or another editor is decoded as text, and no value
// contains a line break.
func FuzzSetting(f *testing.F) {
	f.Add([]byte("[wsl2]\r\nnetworkingMode=mirrored\r\n"))
	f.Add([]byte("\ufeff[Experimental]\nhostAddressLoopback = \"true\" # on\n"))
	f.Add([]byte("\xff\xfe[\x00e\x00]\x00\n\x00k\x00=\x00v\x00"))
	f.Add([]byte("\xff\xfe\x00\xd8x"))
	f.Add([]byte("[engine\n=\n[]]="))
	f.Fuzz(func(t *testing.T, b []byte) {
		content := plain(slices.Clone(b))
		if utf8.Valid(b) && !utf8.ValidString(content) {
			t.Errorf("%q is %q", b, content)
		}
		lines := strings.Split(content, "\n")
		for _, key := range []string{"networkingMode", "hostAddressLoopback", "force_port_listen", "k"} {
			v, found := text.Setting(lines, "wsl2", key)
			if strings.Contains(v, "\n") || v != "" && !found || !strings.Contains(content, v) {
				t.Errorf("%s of %q is %q, %v", key, content, v, found)
			}
		}
	})
}
