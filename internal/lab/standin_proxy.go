package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

const maxDatagram = 64 << 10

// flowTimeout is how long docker-proxy keeps a client's UDP socket without
// traffic.
const flowTimeout = 90 * time.Second

// A proxy does what docker-proxy does: it listens on a published port and
// passes on to the container what comes, with an address of its own.
type proxy struct {
	host    *Host
	backend string // the container's address and port
	stop    func() error
}

func newProxy(h *Host, proto, addr, backend string) (*proxy, error) {
	p := &proxy{host: h, backend: backend}
	err := h.Do(func() error {
		switch proto {
		case "tcp":
			var c net.ListenConfig
			c.SetMultipathTCP(false) // docker-proxy gets a plain socket from dockerd
			l, err := c.Listen(context.Background(), "tcp4", addr)
			if err != nil {
				return err
			}
			p.stop = serveConns(l, p.passConn)
		case "udp":
			c, err := net.ListenPacket("udp4", addr)
			if err != nil {
				return err
			}
			p.stop = c.Close
			go p.passDatagrams(c.(*net.UDPConn))
		default:
			return net.UnknownNetworkError(proto)
		}
		return nil
	})
	return p, err
}

// Close ends the proxy and its connections.
func (p *proxy) Close() error { return p.stop() }

// dial opens a connection from the proxy to the container.
func (p *proxy) dial(network string) (c net.Conn, err error) {
	err = p.host.Do(func() error {
		c, err = net.DialTimeout(network, p.backend, flowTimeout)
		return err
	})
	return c, err
}

// passConn joins a client's connection to one of its own, until both sides have
// said all.
func (p *proxy) passConn(client net.Conn) {
	container, err := p.dial("tcp4")
	if err != nil {
		return
	}
	defer container.Close()
	var both sync.WaitGroup
	pass := func(to, from net.Conn) {
		if _, err := io.Copy(to, from); err != nil {
			to.Close() // a side is gone, so the other has nothing to wait for
			from.Close()
			return
		}
		to.(*net.TCPConn).CloseWrite()
	}
	both.Go(func() { pass(container, client) })
	both.Go(func() { pass(client, container) })
	both.Wait()
}

// passDatagrams has a socket of its own for each client, to know whose the
// container's answers are.
func (p *proxy) passDatagrams(front *net.UDPConn) {
	var (
		mu    sync.Mutex
		flows = map[netip.AddrPort]net.Conn{}
	)
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range flows {
			c.Close()
		}
	}()
	answer := func(client netip.AddrPort, container net.Conn) {
		buf := make([]byte, maxDatagram)
		for {
			container.SetReadDeadline(time.Now().Add(flowTimeout))
			n, err := container.Read(buf)
			if err != nil {
				break
			}
			front.WriteToUDPAddrPort(buf[:n], client)
		}
		container.Close()
		mu.Lock()
		defer mu.Unlock()
		delete(flows, client)
	}
	buf := make([]byte, maxDatagram)
	for {
		n, client, err := front.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		mu.Lock()
		container, known := flows[client]
		if !known {
			if container, err = p.dial("udp4"); err == nil {
				flows[client] = container
				go answer(client, container)
			}
		}
		mu.Unlock()
		if err == nil {
			container.Write(buf[:n])
		}
	}
}
