package lab_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// After SIGKILL nothing is left but empty cgroups, and those only until the
// next bench.
func TestKilled(t *testing.T) {
	labtest.NeedTree(t)
	if isVictim() {
		fmt.Println(leaveRunning(t))
		select {}
	}
	mounts := readFile(t, "/proc/self/mounts")
	cmd, line := startVictim(t)
	network := strings.TrimSpace(line)
	before := len(processesIn(network))
	if before < 10 { // dockerd, containerd, a shim, two proxies, systemd, its services…
		t.Fatalf("only %d processes in %s", before, network)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	labtest.Eventually(t, "all processes end with the one that was killed", func() bool { return len(processesIn(network)) == 0 })
	if after := readFile(t, "/proc/self/mounts"); after != mounts {
		t.Errorf("mounts before:\n%s\nand after:\n%s", mounts, after)
	}
	lab.NewCgroup()
	for _, root := range lab.CgroupRoots() {
		left, err := filepath.Glob(fmt.Sprintf("%s%s%d-*", root, lab.CgroupPrefix, cmd.Process.Pid))
		if err != nil || len(left) > 0 {
			t.Errorf("cgroups %v, error %v", left, err)
		}
	}
}

// victim is set in a process that is to be killed.
const victim = "WSLMIRROR_LAB_VICTIM"

func isVictim() bool { return os.Getenv(victim) != "" }

// startVictim runs the test that calls it in another process, and returns the line
// that it prints there.
func startVictim(t *testing.T) (cmd *exec.Cmd, line string) {
	t.Helper()
	cmd = exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), victim+"=1")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err = bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatal(err, line)
	}
	return cmd, line
}

// leaveRunning starts engines with a container each and a distribution, and
// returns the network namespace that they are in.
func leaveRunning(t *testing.T) string {
	b := labtest.New(t, lab.Options{})
	labtest.RunContainer(t, labtest.StartDocker(t, b), "web", "8080:80", "8080:80/udp")
	labtest.RunContainer(t, labtest.StartEngine(t, b, "podman-netavark"), "other")
	labtest.Boot(t, b, "debian")
	var network string
	if err := b.WSL.Do(func() (err error) {
		network, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return network
}

// processesIn returns the folders in /proc of the living processes in a
// network namespace.
func processesIn(network string) []string {
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	var found []string
	for _, link := range links {
		if ns, err := os.Readlink(link); err == nil && ns == network {
			found = append(found, filepath.Dir(filepath.Dir(link)))
		}
	}
	return found
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
