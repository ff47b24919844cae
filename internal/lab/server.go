package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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
// answered. To an HTTP request it answers in HTTP, for people with curl and for
// load generators: "GET /N" gets N bytes.
func (h *Host) ServeEcho(proto, addr string) (*Server, error) {
	s := &Server{host: h}
	err := h.Do(func() error {
		switch proto {
		case "tcp":
			l, err := listen(addr)
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
			go echoDatagrams(c.(*net.UDPConn), h.Name)
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

// listen is net.Listen without keep-alive, which is four system calls for each
// connection of a load generator, and without MPTCP, which engines and most programs do
// not use and of which WSL never tells Windows.
func listen(addr string) (net.Listener, error) {
	c := net.ListenConfig{KeepAlive: -1}
	c.SetMultipathTCP(false)
	return c.Listen(context.Background(), "tcp4", addr)
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
			if e := c.Close(); !errors.Is(e, net.ErrClosed) { // it may be over already
				err = errors.Join(err, e)
			}
		}
		return err
	}
}

var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// echoLines answers each line with name, and an HTTP request in HTTP.
func echoLines(c io.ReadWriter, name string) {
	r := readers.Get().(*bufio.Reader)
	r.Reset(c)
	defer readers.Put(r)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return // the client is gone, or sends no lines
		}
		if bytes.HasPrefix(line, []byte("GET ")) {
			if !answerHTTP(c, r, line, name) {
				return
			}
		} else if _, err := io.WriteString(c, name+"\n"); err != nil {
			return
		}
	}
}

// echoDatagrams answers each datagram with name until c is closed. It allocates
// nothing on the way, since its speed is measured with that of the way to it.
func echoDatagrams(c *net.UDPConn, name string) {
	buf, answer := make([]byte, 1500), []byte(name)
	for {
		_, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			c.WriteToUDPAddrPort(answer, from)
		}
	}
}
