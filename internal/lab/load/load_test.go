package load

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// serve is a server on a pipe that answers after a delay, of its own for each request.
func serve(t *testing.T, delay func(i int) time.Duration) Dial {
	return func() (net.Conn, error) {
		client, server := net.Pipe()
		t.Cleanup(func() { server.Close() })
		go func() {
			r := bufio.NewReader(server)
			for i := 0; ; {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" { // the end of a request
					time.Sleep(delay(i))
					i++
					io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
					io.WriteString(server, "web\n")
				}
			}
		}()
		return client, nil
	}
}

func TestFixedRate(t *testing.T) {
	for name, test := range map[string]struct {
		delay       func(i int) time.Duration
		median, p99 time.Duration
	}{
		"steady": {func(int) time.Duration { return time.Millisecond }, time.Millisecond, time.Millisecond},
		// One answer of 100 takes 600 ms, and sixty requests that were due
		// meanwhile count too.
		"stalls": {func(i int) time.Duration {
			if i == 0 {
				return 600 * time.Millisecond
			}
			return 0
		}, 110 * time.Millisecond, 600 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got, err := FixedRate(t.Context(), serve(t, test.delay), 1, 100, time.Second)
				if err != nil {
					t.Fatal(err)
				}
				if got.Answered != 100 || got.Median > test.median || got.Median < test.median-20*time.Millisecond || got.P99 < test.p99-20*time.Millisecond || got.P99 > test.p99 {
					t.Errorf("%+v, want a median of %v and a p99 of %v", got, test.median, test.p99)
				}
			})
		})
	}
}

func TestFixedRateEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := serve(t, func(int) time.Duration { return time.Hour })
		if _, err := FixedRate(t.Context(), hang, 2, 100, time.Second); err == nil || !strings.Contains(err.Error(), "timeout") {
			t.Errorf("a server that hangs: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := FixedRate(ctx, hang, 2, 100, time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a context that ends: %v", err)
		}
		time.Sleep(2 * time.Hour) // the servers' end
	})
}

func TestEcho(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 1500)
		for i := 0; ; i++ {
			n, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if i != 10 { // one is lost
				server.WriteToUDPAddrPort(buf[:n], from)
			}
		}
	}()
	dial := func() (net.Conn, error) { return net.Dial("udp4", server.LocalAddr().String()) }
	got, err := Echo(t.Context(), dial, 2, 1100*time.Millisecond)
	if err != nil || got.Lost != 1 || got.Answered < 10 {
		t.Errorf("%+v, %v; want one lost and many answered", got, err)
	}
}
