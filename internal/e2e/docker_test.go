package e2e

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// patience is how long a client waits for an answer that must come. On the bench, answers
// take less than a thousandth of it.
var patience = lab.Scaled(10 * time.Second)

// silence is how long a client waits for an answer that should not come. A machine too busy
// to answer in that time can hide a fault, but cannot cause a failure.
const silence = time.Second

// Windows' clients of a real Docker 20.10 get no answer without wslmirror, the container's
// answer with it, and none again after it has stopped. All other clients always get one.
func TestDocker(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	docker := labtest.StartDocker(t, b)
	labtest.RunContainer(t, docker, "web",
		"8080:80/tcp", "8080:80/udp", "127.0.0.1:8081:80/tcp", "127.0.0.1:8081:80/udp")
	for _, proto := range []string{"tcp", "udp"} {
		for host, port := range map[*lab.Host]string{b.WSL: "9000", b.Windows: "9001"} {
			if _, err := host.ServeEcho(proto, "127.0.0.1:"+port); err != nil {
				t.Fatal(err)
			}
		}
	}
	const published, onLoopback, linux, windows = 8080, 8081, 9000, 9001
	check := func(when string, cured bool) {
		t.Helper()
		var wg sync.WaitGroup
		expect := func(client *lab.Host, port int, want string) {
			for _, proto := range []string{"tcp", "udp"} {
				wg.Go(func() {
					wait := patience
					if want == "" {
						wait = silence
					}
					got, err := client.Ask(proto, fmt.Sprintf("127.0.0.1:%d", port), wait)
					var timeout net.Error
					switch {
					case want == "" && !(errors.As(err, &timeout) && timeout.Timeout()):
						t.Errorf("%s: %s to %s port %d: %q, %v; want a timeout", when, client.Name, proto, port, got, err)
					case want != "" && got != want:
						t.Errorf("%s: %s to %s port %d: %q, %v; want %q", when, client.Name, proto, port, got, err, want)
					}
				})
			}
		}
		container := ""
		if cured {
			container = "web"
		}
		expect(b.Windows, published, container)
		expect(b.Windows, onLoopback, container)
		expect(b.WSL, published, "web")
		expect(b.WSL, onLoopback, "web")
		expect(b.Windows, linux, "WSL")
		expect(b.WSL, linux, "WSL")
		expect(b.WSL, windows, "Windows")
		wg.Wait()
	}

	check("before", false)
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	check("with wslmirror", true)
	if s, _ := d.status(); s.Rule.Packets == 0 || s.Rule.Bytes == 0 {
		t.Errorf("the rule has counted nothing: %+v", s.Rule)
	}
	d.stop(unix.SIGTERM)
	check("after it stopped", false)
}

// A UDP client with a fixed source port that began before wslmirror does not keep the NAT
// of its first packet.
func TestFlowThatBeganBefore(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	docker := labtest.StartDocker(t, b)
	labtest.RunContainer(t, docker, "web", "5353:80/udp")
	client, err := b.Windows.Dial("udp", "127.0.0.1:50000", "127.0.0.1:5353", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if answer, err := client.Ask(silence); err == nil {
		t.Fatalf("answered before: %q", answer)
	}
	start(t, b.WSL).awaitState(status.Active)
	// The daemon removes the flow's conntrack entry after it has installed the rule. The
	// client keeps sending, so the entry would not time out by itself: that takes half a
	// minute without a packet.
	labtest.Eventually(t, "an answer of web, as the conntrack entry is gone", func() bool {
		answer, err := client.Ask(100 * time.Millisecond)
		return err == nil && answer == "web"
	})
}

// Established connections survive when the daemon stops and starts.
func TestConnectionsSurviveRestart(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	docker := labtest.StartDocker(t, b)
	labtest.RunContainer(t, docker, "web", "8080:80/tcp")
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	client, err := b.Windows.Dial("tcp", "", "127.0.0.1:8080", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, step := range []func(){
		func() {},
		func() { d.stop(unix.SIGTERM) },
		func() { d = start(t, b.WSL); d.awaitState(status.Active) },
		func() { d.proc.Stop(unix.SIGKILL) },
		func() { d = start(t, b.WSL); d.awaitState(status.Active) },
	} {
		step()
		if answer, err := client.Ask(patience); err != nil || answer != "web" {
			t.Errorf("%q, %v", answer, err)
		}
	}
}

// Where the kernel serves localhost, wslmirror changes nothing, port by port, from the
// first packet on, and while containers come and go.
func TestDockerWithoutProxy(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	docker := labtest.StartDocker(t, b, "--userland-proxy=false")
	labtest.RunContainer(t, docker, "first", "8080:80/tcp", "8080:80/udp", "127.0.0.1:8081:80/tcp")
	if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:9000"); err != nil {
		t.Fatal(err)
	}
	answers := func(when string, client *lab.Host, proto, port, want string) {
		t.Helper()
		answers(t, when, client, proto, port, want)
	}
	check := func(when string, client *lab.Host) {
		t.Helper()
		answers(when, client, "tcp", "8080", "first")
		answers(when, client, "udp", "8080", "first")
		answers(when, client, "tcp", "8081", "first")
		answers(when, client, "tcp", "9000", "WSL")
	}
	check("before", b.Windows)
	// What works without wslmirror must keep working while it starts and stops.
	old, err := b.Windows.Dial("tcp", "", "127.0.0.1:8080", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	goesOn := func(when string) {
		t.Helper()
		if answer, err := old.Ask(patience); answer != "first" {
			t.Fatalf("a connection that began before, %s: %q, %v", when, answer, err)
		}
	}
	goesOn("without wslmirror")
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	goesOn("with wslmirror")
	d.proc.Stop(unix.SIGKILL)
	goesOn("after kill -9")
	d = start(t, b.WSL)
	s := d.awaitState(status.Active)
	goesOn("with another wslmirror")
	check("with wslmirror", b.Windows)
	check("with wslmirror", b.WSL) // without wslmirror, clients in Linux get no answer
	want := []status.Port{
		{Proto: "tcp", Port: 8080, Address: "0.0.0.0", Target: "172.17.0.2:80", Engine: "docker", Path: "kernel"},
		{Proto: "tcp", Port: 8081, Address: "127.0.0.1", Target: "172.17.0.2:80", Engine: "docker", Path: "kernel"},
		{Proto: "udp", Port: 8080, Address: "0.0.0.0", Target: "172.17.0.2:80", Engine: "docker", Path: "kernel"},
	}
	if !slices.Equal(s.Ports, want) {
		t.Errorf("status lists %+v\nwant %+v", s.Ports, want)
	}

	labtest.RunContainer(t, docker, "second", "8090:80/tcp")
	d.await("the second container's port", func(s status.Snapshot) bool { return len(s.Ports) == 4 })
	answers("a container that came later", b.Windows, "tcp", "8090", "second")
	answers("a container that came later", b.WSL, "tcp", "8090", "second")
	if err := docker.Remove("second"); err != nil {
		t.Fatal(err)
	}
	d.await("three ports", func(s status.Snapshot) bool { return len(s.Ports) == 3 })
	if list := ruleset(t, b.WSL); strings.Contains(list, "8090") {
		t.Errorf("a port that is gone is still in a rule:\n%s", list)
	}
	d.stop(unix.SIGTERM)
	check("after it stopped", b.Windows)
	answers("after it stopped", b.WSL, "tcp", "8080", "")
}
