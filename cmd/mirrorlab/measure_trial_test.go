package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// What is called a connection for each request opens one for each, and what is
// called kept opens few.
func TestConnectionsOfTrials(t *testing.T) {
	labtest.NeedTree(t)
	s, err := newScene(measuring{engine: debianDocker}, speedPorts, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.bench.Close()
	to, err := s.target(t.Context(), byAlone, inWindows)
	if err != nil {
		t.Fatal(err)
	}
	opened := func() (n int) {
		t.Helper()
		out, err := s.bench.WSL.Run("nstat", "--ignore", "--noupdate", "--zeros", "TcpPassiveOpens")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(out, "TcpPassiveOpens")
		if _, err := fmt.Sscan(rest, &n); err != nil {
			t.Fatalf("nstat says %q: %v", out, err)
		}
		return n
	}
	list := trials(1)
	for name, each := range map[string]bool{"keepalive": false, "newconns": true} {
		i := slices.IndexFunc(list, func(x trial) bool { return x.name == name })
		before := opened()
		out, err := list[i].run(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		requests := out.values[0] // in a second
		if n := float64(opened() - before); (n > requests/2) != each {
			t.Errorf("%s: %v connections for some %.0f requests", name, n, requests)
		}
	}
}
