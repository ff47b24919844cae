package chaos

import (
	"fmt"
	"slices"
)

// What the daemons are run with. Of the ports of Windows, Linux itself serves one all
// the time, and Docker publishes some now and then: those are Linux's.
const (
	toWindows = "9000,9001,9002/udp,8083/udp,8086"
	except    = "8080,8085/udp"
)

// exceptedPorts and contestedPorts are those that Docker may publish.
var (
	exceptedPorts  = []uint16{8080, 8085}
	contestedPorts = []uint16{8083, 8086}
)

// excepts reports whether the daemons leave some ports alone: in half of the worlds.
func (w *world) excepts() bool { return w.cfg.Seed%2 == 1 }

// contested are the ports that are Docker's while it publishes them, and else Windows'.
func (w *world) contested() []*port {
	return w.docker.those(func(p *port) bool { return slices.Contains(contestedPorts, p.number) })
}

// serveWindows starts the servers on Windows' 127.0.0.1.
func (w *world) serveWindows() error {
	serve := func(proto string, number uint16) error {
		_, err := w.bench.Windows.ServeEcho(proto, at(localhost, number))
		return err
	}
	if err := serve("tcp", windowsPort); err != nil {
		return err
	}
	for _, p := range w.contested() {
		if err := serve(p.proto, p.number); err != nil {
			return err
		}
	}
	return nil
}

// fromContainers are the ways from a container to Windows, by each address of Linux
// that it knows, and to the ports that are Linux's.
func (w *world) fromContainers(c *container) []way {
	from, gateway, windows := c.host, c.bridge.addr.Addr().String(), w.bench.Windows.Name
	list := []way{{from, "tcp", at(gateway, linuxPort), refused, nil}}
	for _, addr := range []string{gateway, lanAddr} {
		list = append(list, way{from, "tcp", at(addr, windowsPort), windows, nil}, way{from, "udp", at(addr, windowsUDP), windows, nil})
	}
	for _, p := range w.contested() {
		switch {
		case p.to == nil && w.windowsKnows(p):
			// WSL counts every socket with the port. Those of docker-proxy's last connections
			// may wait for a minute (TIME_WAIT), and Windows sends the port to Linux so long.
		case p.to == nil:
			list = append(list, way{from, p.proto, at(lanAddr, p.number), windows, p})
		case p.to.bridge.up:
			list = append(list, way{from, p.proto, at(lanAddr, p.number), p.to.host.Name, p})
		}
	}
	return list
}

// at is an address and a port.
func at(addr string, number uint16) string { return fmt.Sprintf("%s:%d", addr, number) }
