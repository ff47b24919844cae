package lab

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What this kernel has is not lacking, and what it has not is named.
func TestLackingIsNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	if err := lacking(); err != nil {
		t.Fatal(err)
	}
	if err := explain(unix.ENOENT); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	defer func(old []part) { parts = old }(parts)
	parts = append(parts, part{"nft_nothing", "CONFIG_NOTHING", func(*Host) error { return unix.ENOENT }})
	if err := explain(unix.ENOENT); !strings.HasPrefix(err.Error(), "this kernel lacks what the bench needs: nft_nothing (CONFIG_NOTHING); try") {
		t.Error(err)
	}
}
