package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// counted returns how many new connections the rules with that comment have counted.
func counted(t *testing.T, h *lab.Host, comment string) (n int) {
	t.Helper()
	list, err := h.Run("nft", "list", "table", "ip", "wslmirror")
	if err != nil {
		t.Fatal(err)
	}
	rule := regexp.MustCompile(`counter packets (\d+) .*comment "` + comment + `"`)
	for _, m := range rule.FindAllStringSubmatch(list, -1) {
		packets, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		n += packets
	}
	return n
}

// pastProxy returns how many connections went past the proxy, from Windows and from Linux.
func pastProxy(t *testing.T, h *lab.Host) int {
	t.Helper()
	return counted(t, h, "past the proxy") + counted(t, h, "past the proxy, from Linux")
}

// routeLocalnet returns the sysctl of a link.
func routeLocalnet(t *testing.T, h *lab.Host, link string) string {
	t.Helper()
	value, err := h.GetSysctl("ipv4/conf/" + link + "/route_localnet")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(value)
}

// answers sends one request and requires the answer want, or none if want is "".
func answers(t *testing.T, when string, client *lab.Host, proto, port, want string) {
	t.Helper()
	wait := patience
	if want == "" {
		wait = silence
	}
	if got, err := client.Ask(proto, "127.0.0.1:"+port, wait); got != want {
		t.Errorf("%s: %s to %s port %s: %q, %v; want %q", when, client.Name, proto, port, got, err, want)
	}
}

// paths returns the path of each port, with its reason.
func paths(s status.Snapshot) string {
	var list []string
	for _, p := range s.Ports {
		list = append(list, strings.TrimSuffix(fmt.Sprintf("%d/%s %s: %s", p.Port, p.Proto, p.Path, p.Reason), ": "))
	}
	return strings.Join(list, ", ")
}

func (d *daemon) awaitPaths(want string) {
	d.t.Helper()
	d.await(want, func(s status.Snapshot) bool { return paths(s) == want })
}

// Clients in Windows and Linux reach published ports past docker-proxy while containers and
// networks come and go. In the end all changes are undone.
func TestDirect(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	docker := labtest.StartDocker(t, b)
	cli := func(args ...string) {
		t.Helper()
		if out, err := docker.CLI(args...); err != nil {
			t.Fatal(out, err)
		}
	}
	labtest.RunContainer(t, docker, "web", "8080:80/tcp", "8080:80/udp", "127.0.0.1:8081:80/tcp", "192.0.2.2:8082:80/tcp")
	before := world(t, b.WSL)
	d := start(t, b.WSL, "--path", "direct")
	const direct = "8080/tcp direct, 8081/tcp direct, 8080/udp direct"
	d.awaitPaths(direct)
	for _, client := range []*lab.Host{b.Windows, b.WSL} {
		past := pastProxy(t, b.WSL)
		answers(t, "direct", client, "tcp", "8080", "web")
		answers(t, "direct", client, "udp", "8080", "web")
		answers(t, "direct", client, "tcp", "8081", "web")
		if now := pastProxy(t, b.WSL); now != past+3 {
			t.Errorf("%s: %d of 3 connections went past the proxy", client.Name, now-past)
		}
	}
	if list := ruleset(t, b.WSL); strings.Contains(list, "tcp . 8082") {
		t.Errorf("a port of the LAN address alone is in the map:\n%s", list)
	}

	// Other rules would drop these packets: the proxy serves, and status says why.
	for _, rule := range []string{"-i loopback0 -j DROP", "-d 172.17.0.0/16 -m limit --limit 1/s -j DROP", "! -i eth0 -p tcp --dport 80 -j REJECT", "-i docker0 ! -o docker0 -j DROP"} {
		fields := strings.Fields(rule)
		if _, err := b.WSL.Run("iptables-nft", append([]string{"-I", "DOCKER-USER"}, fields...)...); err != nil {
			t.Fatal(err)
		}
		const why = "other rules drop what is forwarded to it, or may"
		want := "8080/tcp proxy: " + why + ", 8081/tcp proxy: " + why + ", 8080/udp proxy: " + why
		if strings.Contains(rule, "tcp") { // so UDP is not affected
			want = strings.TrimSuffix(want, "proxy: "+why) + "direct"
		}
		d.awaitPaths(want)
		answers(t, rule, b.Windows, "tcp", "8080", "web")
		answers(t, rule, b.WSL, "tcp", "8081", "web")
		if _, err := b.WSL.Run("iptables-nft", append([]string{"-D", "DOCKER-USER"}, fields...)...); err != nil {
			t.Fatal(err)
		}
		d.awaitPaths(direct)
	}

	// Without forwarding, which a proxy does not need.
	for _, on := range []string{"0", "1"} {
		if err := b.WSL.Sysctl("ipv4/ip_forward", on); err != nil {
			t.Fatal(err)
		}
		want := direct
		if on == "0" {
			want = strings.ReplaceAll(direct, "direct", "proxy: forwarding is off (net.ipv4.ip_forward)")
		}
		d.awaitPaths(want)
		answers(t, "forwarding "+on, b.Windows, "tcp", "8080", "web")
	}

	// A user-defined network, and a container that moves to it.
	cli("network", "create", "--opt", "com.docker.network.bridge.name=br-test", "test")
	cli("run", "--detach", "--name", "second", "--network", "test", "--publish", "8090:80", "echo", "/echo", "-name", "second", "-addr", ":80")
	d.awaitPaths("8080/tcp direct, 8081/tcp direct, 8090/tcp direct, 8080/udp direct")
	awaitAnswer(t, b.Windows, "8090", "second")
	answers(t, "another network", b.WSL, "tcp", "8090", "second")
	if got := routeLocalnet(t, b.WSL, "br-test"); got != "1" {
		t.Errorf("route_localnet of br-test is %s", got)
	}
	client, err := b.Windows.Dial("tcp", "", "127.0.0.1:8090", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Ask(patience); err != nil {
		t.Fatal(err)
	}
	cli("rm", "--force", "second")
	d.awaitPaths(direct)
	if err := awaitEnd(client); err != nil {
		t.Errorf("a connection to a container that is gone: %v", err)
	}
	labtest.Eventually(t, "route_localnet of br-test is put back", func() bool { return routeLocalnet(t, b.WSL, "br-test") == "0" })
	cli("network", "rm", "test")

	// After a stop, or after a kill and a cleanup, everything is as before. A UDP client
	// that keeps sending from its port follows the change of the path.
	datagrams, err := b.WSL.Dial("udp", "127.0.0.1:60990", "127.0.0.1:8080", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	if answer, err := datagrams.Ask(patience); answer != "web" {
		t.Errorf("direct: %q, %v", answer, err)
	}
	d.stop(unix.SIGTERM)
	if after := world(t, b.WSL); after != before {
		t.Errorf("before\n%s\nafter it stopped\n%s", before, after)
	}
	if answer, err := datagrams.Ask(patience); answer != "web" {
		t.Errorf("by the proxy, after it stopped: %q, %v", answer, err)
	}
	answers(t, "stopped", b.WSL, "tcp", "8080", "web")
	d = start(t, b.WSL, "--path", "direct")
	d.awaitPaths(direct)
	d.proc.Stop(unix.SIGKILL)
	if got := routeLocalnet(t, b.WSL, "docker0"); got != "1" {
		t.Errorf("kill -9 puts route_localnet to %s: nothing is tested", got)
	}
	cleanup, err := b.WSL.Start(asService(t, "cleanup"))
	if err != nil {
		t.Fatal(err)
	}
	if err := cleanup.Wait(); err != nil {
		t.Fatal(err)
	}
	if after := world(t, b.WSL); after != before {
		t.Errorf("before\n%s\nkilled and cleaned up\n%s", before, after)
	}
	// The next daemon cleans up as well, with either path.
	d = start(t, b.WSL, "--path", "direct")
	d.awaitPaths(direct)
	d.proc.Stop(unix.SIGKILL)
	d = start(t, b.WSL)
	labtest.Eventually(t, "route_localnet is put back", func() bool { return routeLocalnet(t, b.WSL, "docker0") == "0" })
	d.stop(unix.SIGTERM)
	if after := world(t, b.WSL); after != before {
		t.Errorf("before\n%s\nafter a crash and another path\n%s", before, after)
	}
}

// Established connections past the proxy continue when the daemon comes back, and those
// through the proxy continue when the path changes.
func TestDirectConnectionsSurvive(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	docker := labtest.StartDocker(t, b)
	labtest.RunContainer(t, docker, "web", "8080:80/tcp")
	d := start(t, b.WSL)
	d.awaitState(status.Active)
	clients := map[string]*lab.Client{}
	dial := func(path string, host *lab.Host) {
		t.Helper()
		c, err := host.Dial("tcp", "", "127.0.0.1:8080", patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		clients[host.Name+" by the path "+path] = c
	}
	dial("proxy", b.Windows)
	dial("proxy", b.WSL)
	restart := func(sig unix.Signal) {
		d.proc.Stop(sig)
		d = start(t, b.WSL, "--path", "direct")
		d.awaitPaths("8080/tcp direct")
	}
	restart(unix.SIGTERM)
	dial("direct", b.Windows)
	dial("direct", b.WSL)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		for name, c := range clients {
			if answer, err := c.Ask(patience); answer != "web" {
				t.Errorf("before %v: %s: %q, %v", sig, name, answer, err)
			}
		}
		restart(sig)
	}
	for name, c := range clients {
		if answer, err := c.Ask(patience); answer != "web" {
			t.Errorf("in the end: %s: %q, %v", name, answer, err)
		}
	}
}

// route_localnet stays on if it was on before, or if the engine has come to need it.
func TestDirectLeavesRouteLocalnetOfOthers(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	docker := labtest.StartDocker(t, b)
	labtest.RunContainer(t, docker, "web", "8080:80/tcp")
	if err := b.WSL.Sysctl("ipv4/conf/docker0/route_localnet", "1"); err != nil {
		t.Fatal(err)
	}
	d := start(t, b.WSL, "--path", "direct")
	d.awaitPaths("8080/tcp direct")
	d.stop(unix.SIGTERM)
	if got := routeLocalnet(t, b.WSL, "docker0"); got != "1" {
		t.Errorf("route_localnet was 1 and is %s", got)
	}
}

// Without the repair, Windows' clients go past the proxy, and Linux's clients still go
// through it.
func TestDirectWithoutRepair(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	docker := labtest.StartDocker(t, b)
	labtest.RunContainer(t, docker, "web", "8080:80/tcp", "8080:80/udp")
	d := start(t, b.WSL, "--path", "direct", "--repair=false")
	d.awaitPaths("8080/tcp direct, 8080/udp direct")
	for client, direct := range map[*lab.Host]int{b.Windows: 2, b.WSL: 0} {
		past := pastProxy(t, b.WSL)
		answers(t, "without repair", client, "tcp", "8080", "web")
		answers(t, "without repair", client, "udp", "8080", "web")
		if now := pastProxy(t, b.WSL); now != past+direct {
			t.Errorf("%s: %d connections went past the proxy, want %d", client.Name, now-past, direct)
		}
	}
}

// awaitAnswer waits until a container that has just started answers.
func awaitAnswer(t *testing.T, client *lab.Host, port, want string) {
	t.Helper()
	labtest.Eventually(t, "an answer of "+want, func() bool {
		got, _ := client.Ask("tcp", "127.0.0.1:"+port, patience)
		return got == want
	})
}

// awaitEnd sends requests until the connection ends, and returns an error if it hangs.
func awaitEnd(c *lab.Client) error {
	for range 5 {
		_, err := c.Ask(patience)
		if timeout, ok := err.(interface{ Timeout() bool }); ok && timeout.Timeout() {
			return fmt.Errorf("it hangs: %w", err)
		}
		if err != nil {
			return nil
		}
	}
	return fmt.Errorf("it still answers")
}
