package main

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
)

// Containers come and go, 200 published ports in all, while clients connect to
// others. None of these notices, and in the end the table is what a daemon that
// has just started would make.
func TestChurn(t *testing.T) {
	b := labtest.New(t, lab.Options{Ports: 2000})
	docker := labtest.StartDocker(t, b, "--userland-proxy=false")
	labtest.RunContainer(t, docker, "steady", "8080:80/tcp", "8080:80/udp")
	if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:9000"); err != nil {
		t.Fatal(err)
	}
	d := start(t, b.WSL)
	d.awaitState(status.Active)

	stop := make(chan struct{})
	var clients sync.WaitGroup
	var asked [4]int
	for i, c := range []struct {
		client            *lab.Host
		proto, port, want string
	}{
		{b.Windows, "tcp", "8080", "steady"},
		{b.Windows, "udp", "8080", "steady"},
		{b.WSL, "tcp", "8080", "steady"},
		{b.Windows, "tcp", "9000", "WSL"},
	} {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if got, err := c.client.Ask(c.proto, "127.0.0.1:"+c.port, 5*patience); err != nil || got != c.want {
					t.Errorf("%s to %s port %s: %q, %v after %d good answers", c.client.Name, c.proto, c.port, got, err, asked[i])
					return
				}
				asked[i]++
			}
		})
	}
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
	close(stop)
	clients.Wait()
	t.Logf("good answers meanwhile: %d", asked)

	s, _ := d.status()
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
