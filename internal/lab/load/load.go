// Package load generates load where wrk, which does the rest, cannot: UDP, and
// requests at a fixed rate.
package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// patience is how long a client waits for an answer. Whatever answers on the
// bench does so within milliseconds.
const patience = time.Second

// A Dial opens a client's connection.
type Dial func() (net.Conn, error)

// all runs n clients at once, each with a connection of its own, and ends them
// when ctx ends.
func all(ctx context.Context, dial Dial, n int, client func(i int, c net.Conn) error) error {
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := dial()
		if err != nil {
			return err
		}
		defer c.Close()
		conns[i] = c
		defer context.AfterFunc(ctx, func() { c.Close() })()
	}
	errs := make([]error, n)
	var clients sync.WaitGroup
	for i, c := range conns {
		clients.Go(func() { errs[i] = client(i, c) })
	}
	clients.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(errs...)
}

// Echoes is what [Echo] counted.
type Echoes struct {
	Answered int
	Lost     int // datagrams without an answer within a second
}

// Echo sends datagrams for a time, with inFlight of them on the way: each
// client sends the next when the last was answered.
func Echo(ctx context.Context, dial Dial, inFlight int, length time.Duration) (Echoes, error) {
	counts := make([]Echoes, inFlight)
	err := all(ctx, dial, inFlight, func(i int, c net.Conn) error {
		datagram, buf := bytes.Repeat([]byte{'?'}, 64), make([]byte, 1500)
		for end := time.Now().Add(length); ; {
			now := time.Now()
			if now.After(end) {
				return nil
			}
			if err := c.SetReadDeadline(now.Add(patience)); err != nil {
				return err
			}
			if _, err := c.Write(datagram); err != nil {
				return err
			}
			switch _, err := c.Read(buf); {
			case errors.Is(err, os.ErrDeadlineExceeded):
				counts[i].Lost++
			case err != nil:
				return err
			default:
				counts[i].Answered++
			}
		}
	})
	var sum Echoes
	for _, c := range counts {
		sum.Answered += c.Answered
		sum.Lost += c.Lost
	}
	return sum, err
}

// Latencies is what [FixedRate] measured.
type Latencies struct {
	Median, P99 time.Duration
	Answered    int
}

// FixedRate sends HTTP requests on conns kept connections, rate of them a
// second in all, for a time. A request that its connection was not free for
// when it was due counts from then, so that a server that stalls is charged
// with all that waited meanwhile (the "coordinated omission" that closed loops
// leave out). One that was sent late because this process woke late counts from
// when it was sent: that is not the server's fault. An answer is complete when
// it ends with a newline.
func FixedRate(ctx context.Context, dial Dial, conns, rate int, length time.Duration) (Latencies, error) {
	interval := time.Second * time.Duration(conns) / time.Duration(rate)
	took := make([][]time.Duration, conns)
	begin := time.Now().Add(10 * time.Millisecond)
	err := all(ctx, dial, conns, func(i int, c net.Conn) error {
		request, buf := []byte("GET / HTTP/1.1\r\nHost: bench\r\n\r\n"), make([]byte, 4096)
		// The connections take turns.
		first := begin.Add(interval * time.Duration(i) / time.Duration(conns))
		for due := first; due.Before(begin.Add(length)); due = due.Add(interval) {
			from := due
			if early := time.Until(due); early > 0 {
				time.Sleep(early)
				from = time.Now()
			}
			if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
				return err
			}
			if _, err := c.Write(request); err != nil {
				return err
			}
			if err := readAnswer(c, buf); err != nil {
				return err
			}
			took[i] = append(took[i], time.Since(from))
		}
		return nil
	})
	if err != nil {
		return Latencies{}, err
	}
	sorted := slices.Concat(took...)
	slices.Sort(sorted)
	n := len(sorted)
	if n == 0 {
		return Latencies{}, fmt.Errorf("no request in %v", length)
	}
	return Latencies{sorted[n/2], sorted[n*99/100], n}, nil
}

// readAnswer reads an answer of the bench's server: a header and one line.
func readAnswer(c io.Reader, buf []byte) error {
	for n := 0; ; {
		m, err := c.Read(buf[n:])
		if err != nil {
			return err
		}
		n += m
		if n == len(buf) {
			return errors.New("the answer is too long")
		}
		if _, body, ok := bytes.Cut(buf[:n], []byte("\r\n\r\n")); ok && bytes.HasSuffix(body, []byte("\n")) {
			return nil
		}
	}
}
