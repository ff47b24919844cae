package lab

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/vishvananda/netns"
)

// Here is the machine itself as a host, with the network of this process. Nothing of it
// is changed.
func Here(name string) (*Host, error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("the network of this machine: %w", err)
	}
	return hostAt(name, ns)
}

// HostOf is a host of the network in which a process runs, for example a container's.
func HostOf(name string, pid int) (*Host, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, fmt.Errorf("the network of %s: %w", name, err)
	}
	return hostAt(name, ns)
}

// ServeMPTCP is ServeEcho for TCP on a socket of MPTCP, which WSL's port tracker passes
// over (GnsPortTracker.cpp): Windows does not hear of the port.
func (h *Host) ServeMPTCP(addr string) (io.Closer, error) {
	s := &Server{host: h}
	err := h.Do(func() error {
		c := net.ListenConfig{}
		c.SetMultipathTCP(true) // where the kernel has it
		l, err := c.Listen(context.Background(), "tcp4", addr)
		if err != nil {
			return err
		}
		s.close = serveConns(l, func(c net.Conn) { echoLines(c, h.Name) })
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("serve %s by MPTCP in %s: %w", addr, h.Name, err)
	}
	h.keep(s)
	return s, nil
}
