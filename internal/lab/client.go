package lab

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"time"
)

// Ask sends one line to a server, as a client in the host, and returns what it
// answers: an echo server's answer is the name of who it is. The error is a
// net.Error with Timeout() if nothing came within timeout. The port is known to
// Windows if anybody in Linux has bound it at the time of the call.
func (h *Host) Ask(proto, addr string, timeout time.Duration) (answer string, err error) {
	c, err := h.Dial(proto, "", addr, timeout)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.Ask(timeout)
}

// A Client is a connection of a client in a host: one TCP connection, or one
// UDP socket with its source port.
type Client struct{ conn net.Conn }

// Dial opens a connection from the host. local is the client's own address and
// port, for example "127.0.0.1:50000", or "".
func (h *Host) Dial(proto, local, addr string, timeout time.Duration) (*Client, error) {
	if err := h.beforeDial(proto, addr); err != nil {
		return nil, err
	}
	c := new(Client)
	err := h.Do(func() (err error) {
		d := net.Dialer{Timeout: timeout}
		switch {
		case local == "":
		case proto == "udp":
			d.LocalAddr, err = net.ResolveUDPAddr("udp4", local)
		default:
			d.LocalAddr, err = net.ResolveTCPAddr("tcp4", local)
		}
		if err == nil {
			c.conn, err = d.Dial(proto+"4", addr)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s to %s %s: %w", h.Name, proto, addr, err)
	}
	return c, nil
}

// Ask sends a line and returns the answer to it.
func (c *Client) Ask(timeout time.Duration) (answer string, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	if _, err := c.conn.Write([]byte("who are you\n")); err != nil {
		return "", err
	}
	if c.conn.RemoteAddr().Network() == "udp" {
		buf := make([]byte, 1500)
		n, err := c.conn.Read(buf)
		return string(buf[:n]), err
	}
	answer, err = bufio.NewReader(c.conn).ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }
