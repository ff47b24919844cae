package windows

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/wslmirror/wslmirror/internal/text"
)

// A Config is the part of a Windows user's .wslconfig that matters here.
type Config struct {
	Mode         string // networkingMode in lower case, "" if absent
	HostLoopback bool   // hostAddressLoopback
	Ignored      string // ignoredPorts, unchanged
}

// Ignores reports whether mirrored mode leaves out a port: the DNS port, and those in
// ignoredPorts.
func (c Config) Ignores(port uint16) bool {
	return port == 53 || slices.ContainsFunc(strings.Split(c.Ignored, ","), func(s string) bool {
		return strings.TrimSpace(s) == strconv.Itoa(int(port))
	})
}

// ReadConfig reads the .wslconfig of the users in a folder such as /mnt/c/Users. It is
// not known which user runs this WSL, but mostly only one has the file. It may hang, as
// Windows drives can.
func ReadConfig(users string) (c Config, err error) {
	if _, err := os.Stat(users); err != nil {
		return c, errors.New("drive C: of Windows is not at /mnt/c")
	}
	paths, _ := filepath.Glob(filepath.Join(users, "*", ".wslconfig"))
	for i, p := range paths {
		fi, err := os.Stat(p)
		if err != nil || !fi.Mode().IsRegular() || fi.Size() > mostOutput {
			return c, errors.New("a .wslconfig cannot be read")
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return c, errors.New("a .wslconfig cannot be read")
		}
		lines := strings.Split(plain(b), "\n")
		mode, _ := text.Setting(lines, "wsl2", "networkingMode")
		loopback, _ := text.Setting(lines, "experimental", "hostAddressLoopback")
		ignored, _ := text.Setting(lines, "experimental", "ignoredPorts")
		one := Config{strings.ToLower(mode), strings.EqualFold(loopback, "true"), ignored}
		if i > 0 && c != one {
			return Config{}, errors.New("several Windows users have a .wslconfig, and they differ")
		}
		c = one
	}
	return c, nil
}

// plain returns the text of a file that Windows' Notepad may have written: UTF-8 or
// UTF-16 with a byte order mark.
func plain(b []byte) string {
	if len(b) >= 2 && b[0] == 0xff && b[1] == 0xfe {
		var units []uint16
		for b = b[2:]; len(b) >= 2; b = b[2:] {
			units = append(units, uint16(b[0])|uint16(b[1])<<8)
		}
		return string(utf16.Decode(units))
	}
	return strings.TrimPrefix(string(b), "\ufeff")
}
