// Package labtest is what tests need to use the bench.
package labtest

import (
	"os"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// NeedRoot skips a test that needs root where there is none, and fails it where
// CI is set: there every test must run.
func NeedRoot(tb testing.TB) {
	tb.Helper()
	switch {
	case testing.Short():
		tb.Skip("needs root, and this is a short run")
	case os.Geteuid() == 0:
	case os.Getenv("CI") != "":
		tb.Fatal("needs root")
	default:
		tb.Skip("needs root: run 'sudo make test'")
	}
}

// NeedTime skips a test that waits for the program's own timeouts in a short run.
func NeedTime(tb testing.TB) {
	tb.Helper()
	if testing.Short() {
		tb.Skip("waits for timeouts, and this is a short run")
	}
}

// New builds a bench that ends with the test.
func New(tb testing.TB, opts lab.Options) *lab.Bench {
	tb.Helper()
	NeedRoot(tb)
	b, err := lab.New(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Errorf("close the bench: %v", err)
		}
	})
	return b
}
