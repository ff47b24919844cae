package lab

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// The echo server's HTTP, as the client of the standard library understands it.
func TestAnswerHTTP(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 10)
	stop := serveConns(listener, func(c net.Conn) {
		conns <- c
		echoLines(c, "web")
	})
	defer stop()
	client := http.Client{Transport: &http.Transport{}}
	get := func(path string, toClose bool) (*http.Response, string) {
		t.Helper()
		request, err := http.NewRequest("GET", fmt.Sprintf("http://%s%s", listener.Addr(), path), nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Close = toClose // "Connection: close"
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response, string(body)
	}
	for _, test := range []struct{ path, want string }{
		{"/", "web\n"},
		{"/index.html", "web\n"},
		{"/-1", "web\n"},
		{"/5", strings.Repeat("\x00", 5)},
		{"/1000000", strings.Repeat("\x00", 1000000)},
	} {
		if response, body := get(test.path, false); body != test.want || response.Close {
			t.Errorf("%s: %.10q, %d bytes, close %v; want %.10q", test.path, body, len(body), response.Close, test.want)
		}
	}
	if n := len(conns); n != 1 {
		t.Errorf("%d connections, want 1 that is kept", n)
	}
	if response, body := get("/", true); body != "web\n" || !response.Close {
		t.Errorf("%q, close %v", body, response.Close)
	}
	get("/", false)
	if n := len(conns); n != 2 {
		t.Errorf("%d connections, want 2: one was closed", n)
	}
}
