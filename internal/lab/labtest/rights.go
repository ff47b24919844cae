package labtest

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The rights that systemd gives the service, as Rights has them: a user without a
// name, CAP_NET_ADMIN and no way to get more. A filter of system calls is the last line.
const (
	rightsOfService = `Uid: 65534 65534 65534 65534
Gid: 65534 65534 65534 65534
Groups:
CapInh: 0000000000001000
CapPrm: 0000000000001000
CapEff: 0000000000001000
CapBnd: 0000000000001000
CapAmb: 0000000000001000
NoNewPrivs: 1
`
	Filtered   = rightsOfService + "Seccomp: 2\n"
	Unfiltered = rightsOfService + "Seccomp: 0\n"
)

// Rights is what a /proc/PID/status says of the rights of a process.
func Rights(status string) string {
	var rights strings.Builder
	for line := range strings.Lines(status) {
		switch key, _, _ := strings.Cut(line, ":"); key {
		case "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp":
			rights.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
		}
	}
	return rights.String()
}

// HasRights fails the test if a process has not these rights: Filtered or Unfiltered.
func HasRights(tb testing.TB, pid int, want string) {
	tb.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	if got := Rights(string(b)); got != want {
		tb.Errorf("process %d has the rights\n%swant\n%s", pid, got, want)
	}
}
