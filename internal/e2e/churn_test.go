package e2e

import (
	"fmt"
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

// An asker is a client that sends requests to one port again and again.
type asker struct {
	client            *lab.Host
	proto, port, want string
}

// keepAsking makes clients send requests until stop is called. stop returns how many right
// answers each client received. A wrong answer is an error.
func keepAsking(t *testing.T, pause time.Duration, askers ...asker) (stop func() []int) {
	done := make(chan struct{})
	var asking sync.WaitGroup
	good := make([]int, len(askers))
	for i, a := range askers {
		asking.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(pause):
				}
				if got, err := a.client.Ask(a.proto, "127.0.0.1:"+a.port, patience); err != nil || got != a.want {
					t.Errorf("%s to %s port %s: %q, %v after %d good answers", a.client.Name, a.proto, a.port, got, err, good[i])
					return
				}
				good[i]++
			}
		})
	}
	return func() []int {
		close(done)
		asking.Wait()
		return good
	}
}

// Containers come and go, 200 published ports in all, while clients connect to other ports.
// No client notices, and in the end the table is the same as that of a new daemon.
func TestChurn(t *testing.T) {
	b := labtest.New(t, lab.Options{Ports: 2000})
	docker := labtest.StartDocker(t, b, "--userland-proxy=false")
	labtest.RunContainer(t, docker, "steady", "8080:80/tcp", "8080:80/udp")
	if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:9000"); err != nil {
		t.Fatal(err)
	}
	d := start(t, b.WSL)
	d.awaitState(status.Active)

	stop := keepAsking(t, 0,
		asker{b.Windows, "tcp", "8080", "steady"},
		asker{b.Windows, "udp", "8080", "steady"},
		asker{b.WSL, "tcp", "8080", "steady"},
		asker{b.Windows, "tcp", "9000", "WSL"},
	)
	const rounds, ports = 4, 50
	for round := range rounds {
		var publish []string
		for p := range ports {
			publish = append(publish, fmt.Sprintf("127.0.0.1:%d:80/tcp", 10000+round*ports+p))
		}
		name := fmt.Sprintf("round%d", round)
		labtest.RunContainer(t, docker, name, publish...)
		d.await("all ports", func(s status.Snapshot) bool { return len(s.Ports) == 2+ports })
		if got, err := b.Windows.Ask("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+round*ports), patience); got != name {
			t.Errorf("Windows to a port of %s: %q, %v", name, got, err)
		}
		if err := docker.Remove(name); err != nil {
			t.Fatal(err)
		}
		d.await("the two steady ports", func(s status.Snapshot) bool { return len(s.Ports) == 2 })
	}
	t.Logf("good answers meanwhile: %d", stop())

	s := d.awaitState(status.Active)
	table := func() string {
		out, err := b.WSL.Run("nft", "--stateless", "list", "table", "ip", "wslmirror")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	after := table()
	d.stop(unix.SIGTERM)
	d = start(t, b.WSL)
	fresh := d.awaitState(status.Active)
	if got := table(); got != after {
		t.Errorf("after the churn the table is\n%s\nand of a fresh daemon\n%s", after, got)
	}
	if !slices.Equal(s.Ports, fresh.Ports) {
		t.Errorf("after the churn the ports are %+v, and of a fresh daemon %+v", s.Ports, fresh.Ports)
	}
}

// 500 containers come and go, ten at a time, in the rules that Docker writes for them.
// Clients of other ports notice nothing, and none of the containers stays in the map.
func TestDirectChurn(t *testing.T) {
	b := labtest.New(t, lab.Options{Ports: 4000})
	docker := labtest.StartDocker(t, b)
	labtest.RunContainer(t, docker, "steady", "8080:80/tcp", "8080:80/udp")
	if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:9000"); err != nil {
		t.Fatal(err)
	}
	d := start(t, b.WSL, "--path", "direct")
	const steady = "8080/tcp direct, 8080/udp direct"
	d.awaitPaths(steady)

	// An established connection, and new ones all the time.
	kept, err := b.Windows.Dial("tcp", "", "127.0.0.1:8080", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	stop := keepAsking(t, 10*time.Millisecond,
		asker{b.Windows, "tcp", "8080", "steady"},
		asker{b.WSL, "udp", "8080", "steady"},
		asker{b.WSL, "tcp", "8080", "steady"},
		asker{b.Windows, "tcp", "9000", "WSL"},
	)
	// change adds or removes the rules that Docker writes for a container.
	change := func(action string, container int) {
		addr, port := fmt.Sprintf("172.17.%d.%d", 1+container/250, 1+container%250), 10000+container
		rules := fmt.Sprintf("*nat\n%s DOCKER ! -i docker0 -p tcp -m tcp --dport %d -j DNAT --to-destination %s:80\n"+
			"%s POSTROUTING -s %s/32 -d %s/32 -p tcp -m tcp --dport 80 -j MASQUERADE\nCOMMIT\n"+
			"*filter\n%s DOCKER -d %s/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT\nCOMMIT\n",
			action, port, addr, action, addr, addr, action, addr)
		if out, err := b.WSL.Run("sh", "-c", "iptables-nft-restore --noflush <<'E'\n"+rules+"E\n"); err != nil {
			t.Fatal(out, err)
		}
	}
	const containers, atOnce = 500, 10
	began := time.Now()
	for first := 0; first < containers; first += atOnce {
		for i := range atOnce {
			change("-A", first+i)
		}
		if got, err := kept.Ask(patience); got != "steady" {
			t.Fatalf("the connection that is kept: %q, %v", got, err)
		}
		d.await("the containers' ports, direct", func(s status.Snapshot) bool {
			return len(s.Ports) == 2+atOnce && s.Ports[2].Path == status.PathDirect
		})
		for i := range atOnce {
			change("-D", first+i)
		}
	}
	took := time.Since(began)
	asked := stop()
	d.awaitPaths(steady)
	list, err := b.WSL.Run("nft", "--json", "list", "map", "ip", "wslmirror", "direct")
	if err != nil || strings.Count(list, `"172.17.`) != 2 {
		t.Errorf("%v; more than the steady container is in the map:\n%s", err, list)
	}
	d.stop(unix.SIGTERM)
	used := d.proc.Cmd.ProcessState.UserTime() + d.proc.Cmd.ProcessState.SystemTime()
	t.Logf("%d containers came and went in %.1f s; good answers meanwhile %d; CPU of the daemon %.2f s",
		containers, took.Seconds(), asked, used.Seconds())
}
