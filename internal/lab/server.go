package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// A Server answers with the name of its host until it is closed.
type Server struct {
	host  *Host
	close func() error
}

// ServeEcho starts a server in the host: proto is "tcp" or "udp", addr an
// address and a port, for example "127.0.0.1:80". It answers each line (TCP) or
// datagram (UDP) with the host's name, so that a client learns who it was that
// answered. To an HTTP request it answers in HTTP, for people with curl.
func (h *Host) ServeEcho(proto, addr string) (*Server, error) {
	s := &Server{host: h}
	err := h.Do(func() error {
		switch proto {
		case "tcp":
			l, err := net.Listen("tcp4", addr)
			if err != nil {
				return err
			}
			s.close = serveConns(l, func(c net.Conn) { echoLines(c, h.Name) })
		case "udp":
			c, err := net.ListenPacket("udp4", addr)
			if err != nil {
				return err
			}
			s.close = c.Close
			go echoDatagrams(c, h.Name)
		default:
			return net.UnknownNetworkError(proto)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("serve %s %s in %s: %w", proto, addr, h.Name, err)
	}
	h.keep(s)
	return s, nil
}

// Close ends the server and its connections.
func (s *Server) Close() error {
	s.host.forget(s)
	return s.close()
}

// serveConns calls serve for each connection of l, and returns what ends l and
// all of them.
func serveConns(l net.Listener, serve func(net.Conn)) (stop func() error) {
	var (
		mu     sync.Mutex
		conns  = map[net.Conn]struct{}{}
		closed bool
	)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			mu.Lock()
			if closed {
				c.Close()
			}
			conns[c] = struct{}{}
			mu.Unlock()
			go func() {
				serve(c)
				c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			}()
		}
	}()
	return func() error {
		err := l.Close()
		mu.Lock()
		defer mu.Unlock()
		closed = true
		for c := range conns {
			err = errors.Join(err, c.Close())
		}
		return err
	}
}

// echoLines answers each line with name, and an HTTP request in HTTP.
func echoLines(c io.ReadWriter, name string) {
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		answer := name + "\n"
		if strings.HasPrefix(lines.Text(), "GET ") {
			for lines.Scan() && lines.Text() != "" { // the header
			}
			answer = fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s\n", len(name)+1, name)
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
	}
}

// echoDatagrams answers each datagram with name until c is closed.
func echoDatagrams(c net.PacketConn, name string) {
	buf := make([]byte, 1500)
	for {
		_, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			c.WriteTo([]byte(name), from)
		}
	}
}
